"""Malformed and hostile submissions: each is refused or flagged for its own reason, and changes nothing."""

import gzip
import io
import os
import pickle
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from robustness_bench.benchmark.errors import BenchError
from tests.benchmark.submit.submissions import (
    WEIGHTS,
    checked,
    copied,
    probe_quickly,
    rehash,
    rewrite,
    run_in_process,
    tensors_of,
    tree_hash,
    with_code,
    write,
)

Spoil = Callable[[Path], Path | None]
"""Spoils the submission in a folder; the path to send in, where it is another."""


class Case(NamedTuple):
    spoil: Spoil
    said: str
    """A regular expression in the line that names the reason."""
    status: str = "FAILED"
    """"refused": it is not even read."""
    trust_code: bool = False


def value(key: str, text: str) -> Spoil:
    """Write a value into submission.toml; none deletes the line."""
    return lambda folder: write(folder, key, text)


def added(text: str, *, first: bool = False) -> Spoil:
    def spoil(folder: Path) -> None:
        manifest = folder / "submission.toml"
        old = manifest.read_text()
        manifest.write_text(text + old if first else old + text)

    return spoil


def manifest(content: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "submission.toml").write_bytes(content)

    return spoil


def several(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path) -> Path | None:
        for each in spoils:
            sent = each(folder)
        return sent

    return spoil


REQUIRED = ["name", "authors", "licence", "contact", "dataset", "norm", "eps", "architecture", "weights"]
REQUIRED += ["sha256", "forward_passes", "randomised", "real", "synthetic", "natural", "aa"]
MANIFESTS = {
    **{f"lacks {key}": Case(value(key, ""), rf"\b{key} is missing: \w+") for key in REQUIRED},
    "empty authors": Case(value("authors", "[]"), "authors is empty"),
    "lacks both links": Case(value("paper", '""'), "paper and code are both empty"),
    "misspelt key": Case(
        added('licenze = "MIT"\n', first=True), r"unknown key 'licenze'; did you mean licence"
    ),
    "key of no section": Case(added("pgd40 = 3\n"), r"unknown attack 'pgd40'; did you mean pgd-40"),
    "key elsewhere": Case(added("real = 3\n", first=True), r"unknown key 'real': real stands under \[data\]"),
    "markup in a key": Case(added('"<b>" = 1\n', first=True), r"unknown key '<b>': delete it"),
    "a dot in a quoted key": Case(
        added('"threat.norm" = "l2"\n', first=True), r"unknown key 'threat\.norm\.'"
    ),
    "name is a number": Case(value("name", "7"), "name must be text in quotes, got 7"),
    "name is blank": Case(value("name", '"  "'), "name is blank"),
    "name is long": Case(value("name", f'"{"x" * 81}"'), "name has 81 characters: shorten it to 80"),
    "script in the name": Case(value("name", '"<script>alert(1)</script>"'), "name has '<' in it"),
    "entity in the name": Case(value("name", '"&lt;"'), "name has '&' in it"),
    "escape sequence in the name": Case(value("name", r'"a\u001b[31m"'), r"name has .* character U\+001B"),
    "name reads backwards": Case(value("name", r'"\u202Egnp"'), r"name has .* character U\+202E"),
    "name with nothing between": Case(value("name", r'"a\u200Bb"'), r"name has .* character U\+200B"),
    "name looks blank": Case(value("name", r'"\u3164"'), r"name has .* character U\+3164"),
    "name over two lines": Case(value("name", r'"a\nb"'), r"name has .* character U\+000A"),
    "markup in an author": Case(value("authors", '["<img src=x>"]'), "authors has '<' in it"),
    "authors not a list": Case(value("authors", '"Ada"'), "authors must be a list, got"),
    "notes with an escape": Case(value("notes", r'"\u0007"'), r"notes has .* character U\+0007"),
    "javascript link": Case(
        value("paper", '"javascript:alert(1)"'), "paper 'javascript:alert.1.' is not an http"
    ),
    "link with quotes": Case(
        value("code", "'https://a.org/\"onload=x'"), "code .* has a character that links"
    ),
    "link with a password": Case(value("code", '"https://me:pw@a.org/"'), "code has a user name or password"),
    "link to nowhere": Case(value("code", '"https://"'), "code 'https://' is not an http or https link"),
    "file link": Case(value("code", '"file:///etc/passwd"'), "code 'file:///etc/passwd' is not an http"),
    "broken link": Case(value("code", '"https://[::1/"'), r"code 'https://\[::1/' is no link"),
    "licence is prose": Case(value("licence", '"do what you like, please!"'), "licence .* is no SPDX name"),
    "no licence": Case(value("licence", '"NOASSERTION"'), "NOASSERTION lets nobody use the weights"),
    "contact is a word": Case(value("contact", '"me"'), "contact 'me' is neither an e-mail"),
    "unknown data set": Case(
        value("dataset", '"cifar"'), "dataset is an unknown data set 'cifar'; did you mean"
    ),
    "unknown norm": Case(value("norm", '"Linf"'), "threat.norm is an unknown norm 'Linf'; did you mean linf"),
    "eps in levels": Case(value("eps", "8"), 'threat.eps 8 does not fit .*; did you mean "8/255"'),
    "eps over zero": Case(value("eps", '"8/0"'), "threat.eps must be a number above 0 or a fraction .*'8/0'"),
    "negative eps": Case(value("eps", "-0.1"), "threat.eps must be a number above 0 .*got -0.1"),
    "eps not a number": Case(value("eps", "nan"), "threat.eps must be a number above 0 .*got nan"),
    "eps true": Case(value("eps", "true"), "threat.eps must be a number above 0 .*got True"),
    "unknown architecture": Case(
        value("architecture", '"resnet18"'), "unknown architecture .*did you mean resnet"
    ),
    "no width": Case(value("width", "0"), "model.width is empty"),
    "absurd width": Case(value("width", "100000"), "model.width must be at most 1024, got 100000"),
    "width of one's own": Case(value("architecture", '"own"'), "model.width is for listed architectures"),
    "weights elsewhere": Case(
        value("weights", '"../../etc/w.safetensors"'), "weights must be the plain name"
    ),
    "weights pickled": Case(
        value("weights", '"weights.pt"'), r"weights must be the plain name .*'weights\.pt'"
    ),
    "half a hash": Case(value("sha256", '"abc123"'), "model.sha256 must be 64 hexadecimal digits"),
    "randomised in words": Case(value("randomised", '"no"'), "model.randomised must be true or false"),
    "no forward pass": Case(value("forward_passes", "0"), "forward_passes must be at least 1, got 0"),
    "passes of an ensemble": Case(value("forward_passes", "5"), "resnet-18 takes 1, 5 are declared"),
    "less than no images": Case(value("real", "-1"), "data.real must be at least 0, got -1"),
    "half an image": Case(value("synthetic", "1.5"), "data.synthetic must be a whole number"),
    "astronomic images": Case(value("synthetic", "9" * 400), "synthetic must be at most 10000000000, got 99"),
    "a number of 9999 digits": Case(value("synthetic", "9" * 9999), "is not TOML: .*fix that line"),
    "accuracy as a share": Case(value("natural", "0.97"), "claimed.natural 0.97 is in %: did you mean 97"),
    "accuracy above 100": Case(value("natural", "120.0"), "claimed.natural must be a number from 0 to 100"),
    "accuracy in words": Case(value("natural", '"97 %"'), "claimed.natural must be a number from 0 to 100"),
    "robust beyond natural": Case(value("aa", "99.5"), "claimed.aa 99.5 is above claimed.natural"),
    "claim in another norm": Case(added("ddn = 10.0\n"), "claimed.ddn is no claim in linf"),
    "a thousand keys": Case(
        added("".join(f"key{n} = 1\n" for n in range(1000)), first=True), "980 more unknown keys"
    ),
    "a thousand claims": Case(
        added("".join(f"key{n} = 1\n" for n in range(1000))),
        "claimed has 1002 values: there are fewer attacks",
    ),
    "sections are values": Case(
        manifest(b"threat = 1\nmodel = 2\ndata = 3\nclaimed = 4\n"),
        r"threat must be a section \[threat\]",
    ),
    "not TOML": Case(manifest(b"name: [broken"), "is not TOML: .*fix that line"),
    "not UTF-8": Case(manifest(b'name = "\xff"'), "is not UTF-8"),
    "zero bytes": Case(manifest(b"\0" * 100), "is not TOML"),
    "key twice": Case(added('name = "again"\n', first=True), "is not TOML: .*fix that line"),
    "a thousand brackets": Case(manifest(b"name = " + b"[" * 5000), "is nested too deeply"),
}


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    """Change the tensors, and declare the new hash."""

    def spoil(folder: Path) -> None:
        tensors = tensors_of(folder)
        change(tensors)
        rewrite(folder, tensors)

    return spoil


def content(make: Callable[[bytes], bytes]) -> Spoil:
    """Other bytes as the weights file, and their hash."""

    def spoil(folder: Path) -> None:
        path = folder / WEIGHTS
        path.write_bytes(make(path.read_bytes()))
        rehash(folder)

    return spoil


def pickled(_: bytes) -> bytes:
    return pickle.dumps({"a": Bomb()})


class Bomb:
    """Would leave a file where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.system, ("touch unpickled",)


def torch_file(_: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    return buffer.getvalue()


def put(name: str, text: bytes = b"x") -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text)

    return spoil


def made(make: Callable[[Path], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        make(folder)

    return spoil


def as_normalised(tensors: dict[str, torch.Tensor]) -> None:
    """The network alone, as a file of weights without normalisation has it."""
    for name in list(tensors):
        tensor = tensors.pop(name)
        if name.startswith("1."):
            tensors[name[2:]] = tensor


FILES = {
    "truncated weights": Case(content(lambda old: old[:-1000]), "weights.safetensors is damaged"),
    "empty weights": Case(content(lambda old: b""), "weights.safetensors is empty"),
    "pickled weights": Case(
        content(pickled), "weights.safetensors is a PyTorch file .a pickle., which is not"
    ),
    "zipped PyTorch weights": Case(content(torch_file), "weights.safetensors is a PyTorch file"),
    "text as weights": Case(content(lambda old: b"hello " * 99), "weights.safetensors is damaged"),
    "header of absurd length": Case(
        content(lambda old: struct.pack("<Q", 2**62) + old[8:]), "weights.safetensors is damaged"
    ),
    "tensor outside the file": Case(
        content(
            lambda old: (
                struct.pack("<Q", 70) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(70)
            )
        ),
        "weights.safetensors is damaged",
    ),
    "no tensors": Case(
        content(lambda old: struct.pack("<Q", 2) + b"{}"), "weights.safetensors has no weights in it"
    ),
    "other weights than declared": Case(
        value("sha256", f'"{"0" * 64}"'),
        'not the declared weights: the file has sha256 = "[0-9a-f]{64}"',
    ),
    "weights missing": Case(
        made(lambda f: (f / WEIGHTS).unlink()), "there is no weights.safetensors: put it there"
    ),
    "weights of another name": Case(
        made(lambda f: (f / WEIGHTS).rename(f / "w.safetensors")), "w.safetensors is there: name it"
    ),
    "code for a listed architecture": Case(
        put("model.py"), "model.py is not needed for a listed architecture"
    ),
    "own without code": Case(several(value("width", "0"), value("architecture", '"own"')), "needs model.py"),
    "a layer missing": Case(
        weights(lambda t: t.pop("1.linear.bias")), "does not fit the model: 1 missing .1.lin"
    ),
    "a layer too many": Case(
        weights(lambda t: t.update(extra=torch.ones(1))), "does not fit the model: 1 unexpected .extra"
    ),
    "a shape": Case(
        weights(lambda t: t.update({"1.linear.bias": torch.ones(7)})),
        "does not fit .*7 float32 instead of 10",
    ),
    "another width": Case(
        value("width", "8"), "does not fit the model: .*the file has width 4: write width = 4"
    ),
    "a width for a cluster": Case(
        value("width", "1024"), "width 1024 makes 2,8[0-9,]* numbers, the file has 45,172: fix model.width"
    ),
    "whole numbers": Case(
        weights(lambda t: t.update({"1.linear.bias": torch.ones(10, dtype=torch.int64)})),
        "does not fit .*10 int64",
    ),
    "NaN weights": Case(
        weights(lambda t: t["1.linear.bias"].fill_(torch.nan)), "1.linear.bias that are not finite"
    ),
    "infinite weights": Case(
        weights(lambda t: t["1.conv1.weight"].fill_(torch.inf)), "1.conv1.weight that are not finite"
    ),
    "dead weights": Case(weights(lambda t: t["1.linear.weight"].zero_()), "every image gets the same logits"),
    "overflow": Case(weights(lambda t: t["1.linear.weight"].mul_(1e38)), "logits are NaN or infinite"),
    "not normalised pixels": Case(
        several(weights(as_normalised), value("weights_plain", "true")), "write weights_plain = false"
    ),
    "classes in another order": Case(
        weights(
            lambda t: [t.update({n: t[n].flip(0).contiguous()}) for n in ("1.linear.weight", "1.linear.bias")]
        ),
        "claimed, and no other range helps",
    ),
    "natural accuracy too good": Case(
        value("natural", "99.9"), "97.2 % of 360 images .*; 99.9 % claimed for natural: fix", "flagged"
    ),
    "natural accuracy of another model": Case(
        value("natural", "80.0"), "97.2 % of 360 images .*; 80 % claimed for natural: fix", "flagged"
    ),
    "robust accuracy too good": Case(
        value("aa", "96.0"), "quick attack leaves .*; 96 % claimed for aa: fix", "flagged"
    ),
    "randomised it is not": Case(
        value("randomised", "true"), "declared randomised, which it is not", "flagged"
    ),
}


def code(body: str) -> Spoil:
    return lambda folder: with_code(folder, body)


def source(text: str) -> Spoil:
    """Other code altogether."""

    def spoil(folder: Path) -> None:
        with_code(folder)
        (folder / "model.py").write_text(text)

    return spoil


ONE_HOT = "return 9 * torch.nn.functional.one_hot(self.inner(x).argmax(1).detach(), 10).float()"
CODE = {
    "code that is not trusted": Case(
        code("return self.inner(x)"), "model.py is code: read it, then add", "skipped"
    ),
    "softmax": Case(code("return self.inner(x).softmax(1)"), "outputs are probabilities", trust_code=True),
    "three classes": Case(
        code("return self.inner(x)[:, :3]"), r"give \(4, 3\) instead of \(4, 10\)", trust_code=True
    ),
    "a batch lost": Case(code("return self.inner(x).mean(0)"), r"give \(10,\) instead", trust_code=True),
    "one image squeezed": Case(
        code("return self.inner(x).squeeze()"), r"give \(10,\) instead", trust_code=True
    ),
    "no tensor": Case(code("return 'logits'"), "give str instead", trust_code=True),
    "NaN at white": Case(
        code("return self.inner(x) / (x.flatten(1).mean(1) < 1)[:, None]"), "NaN or infinite", trust_code=True
    ),
    "constant logits": Case(
        code("return 0 * self.inner(x)"), "every image gets the same logits", trust_code=True
    ),
    "cut gradients": Case(
        code("return self.inner(x.detach()) + 0 * x.mean()"),
        "100 % of the gradients are exactly zero",
        trust_code=True,
    ),
    "one-hot answers": Case(code(ONE_HOT), "of the gradients are exactly zero", trust_code=True),
    "NaN gradients": Case(
        code("return self.inner(x + 0 * (x - x).abs().sqrt())"),
        "gradients are NaN or infinite",
        trust_code=True,
    ),
    "constant gradients": Case(
        code(f"{ONE_HOT} + 1e-3 * x.flatten(1)[:, :10]"), "every image has the same gradient", trust_code=True
    ),
    "backward gradients": Case(
        code("z = self.inner(x); return 2 * z.detach() - z"),
        "survives-any-budget",
        "flagged",
        trust_code=True,
    ),
    "noise that is not declared": Case(
        code("return self.inner(x) + torch.randn_like(x).flatten(1)[:, :10]"),
        "write randomised = true",
        trust_code=True,
    ),
    "a look at the batch": Case(
        code("return self.inner(x) - self.inner(x).mean(0)"), "other images in the batch", trust_code=True
    ),
    "pixels to 255": Case(
        code("return self.inner(x / 255)"), "it needs images from 0 to 255", trust_code=True
    ),
    "pixels from -1": Case(
        code("return self.inner((x + 1) / 2 - 2 * (x.amin() >= 0))"),
        "it needs (normalised images|images from -1 to 1)",
        trust_code=True,
    ),
    "normalised outside": Case(
        code("return self.inner(x * 0.376 + 0.305)"), "it needs normalised images", trust_code=True
    ),
    "code that does not parse": Case(
        source("def build(:"), "model.py cannot be run: invalid syntax", trust_code=True
    ),
    "code without build": Case(source("x = 1"), "model.py cannot be run", trust_code=True),
    "build that raises": Case(
        source("def build(**_): raise ValueError('no')"), "cannot be run: no", trust_code=True
    ),
    "weights of another network": Case(
        several(code("return self.inner(x)"), weights(lambda t: t.pop("inner.0.mean"))),
        "cannot be run",
        trust_code=True,
    ),
    "a process that dies": Case(
        code("raise MemoryError"), "process was killed: it took too much", trust_code=True
    ),
}


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Spoil:
    """The submission as a zip file with more in it."""

    def spoil(folder: Path) -> Path:
        sent = folder.with_suffix(".zip")
        with zipfile.ZipFile(sent, "w", kind) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
            for name, data in entries:
                archive.writestr(name, data)
        return sent

    return spoil


def zip_entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, mode << 16
    return entry


def patched(archive: Spoil, change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(folder: Path) -> Path:
        sent = archive(folder)
        assert sent is not None
        sent.write_bytes(change(sent.read_bytes()))
        return sent

    return spoil


def encrypted(data: bytes) -> bytes:
    """The flag of the last entry set, in its own header and in the directory."""
    local, central = data.rfind(b"PK\x03\x04"), data.rfind(b"PK\x01\x02")
    changed = bytearray(data)
    changed[local + 6] |= 1
    changed[central + 8] |= 1
    return bytes(changed)


def tarred(*entries: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Spoil:
    """The submission as a tar file with more in it."""

    def spoil(folder: Path) -> Path:
        sent = folder.with_suffix(".tar.gz" if mode == "w:gz" else ".tar")
        with tarfile.open(sent, mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
            for entry, data in entries:
                entry.size = entry.size or len(data)
                archive.addfile(entry, io.BytesIO(data))
        return sent

    return spoil


def tar_entry(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    for key, each in more.items():
        setattr(entry, key, each)
    return entry, b"x" if kind == tarfile.REGTYPE else b""


def absurd_tar(folder: Path) -> Path:
    """A header that promises 100 GiB of README."""
    entry, _ = tar_entry("README.md")
    entry.size = 100 * 2**30
    sent = folder.with_suffix(".tar")
    sent.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + b"x" * 1024)
    return sent


def greedy_tar(folder: Path) -> Path:
    """An extended header that is 1 GiB long by its own word."""
    entry, _ = tar_entry("pax", tarfile.XHDTYPE)
    entry.size = 2**30
    sent = folder.with_suffix(".tar")
    sent.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + b"x" * 1024)
    return sent


def backwards_tar(folder: Path) -> Path:
    """A member of negative size, on which some versions of tarfile turn forever."""
    entry, _ = tar_entry("README.md", pax_headers={"size": "-1024"})
    sent = folder.with_suffix(".tar")
    sent.write_bytes(entry.tobuf(tarfile.PAX_FORMAT) + b"\0" * 1024)
    return sent


def named(name: str, data: bytes) -> Spoil:
    def spoil(folder: Path) -> Path:
        sent = folder.with_name(name)
        sent.write_bytes(data)
        return sent

    return spoil


ZEROS = bytes(60 * 2**20)
ARCHIVES = {
    "zip slip": Case(zipped(("../../out.py", b"x")), "'../../out.py' leads out of the folder"),
    "zip slip of Windows": Case(zipped((r"..\out.py", b"x")), r"'\.\.\\\\out.py' leads out of the folder"),
    "absolute path": Case(zipped(("/etc/cron", b"x")), "'/etc/cron' is an absolute path"),
    "drive letter": Case(zipped(("C:/x.py", b"x")), "'C:/x.py' is an absolute path"),
    "folder in a zip": Case(zipped(("code/net.py", b"x")), "'code/net.py' lies in a folder"),
    "empty folder in a zip": Case(zipped(("code/", b"")), "'code' is a folder"),
    "file twice": Case(zipped(("SUBMISSION.TOML", b"x")), "'SUBMISSION.TOML' does not belong"),
    "weights twice": Case(
        zipped((WEIGHTS.upper().replace("SAFETENSORS", "safetensors"), b"x")), "is there twice"
    ),
    "second weights": Case(zipped(("x.safetensors", b"x")), "'x.safetensors' is a second .safetensors file"),
    "unknown file": Case(zipped(("run.sh", b"x")), "'run.sh' does not belong in a submission"),
    "hidden file": Case(zipped((".bashrc", b"x")), "'.bashrc' does not belong in a submission"),
    "link in a zip": Case(
        zipped((zip_entry("README.md", stat.S_IFLNK | 0o777), b"/etc/passwd")), "is a link"
    ),
    "device in a zip": Case(
        zipped((zip_entry("README.md", stat.S_IFCHR), b"")), "is a device, pipe or socket"
    ),
    "markup in a file name": Case(zipped(("<b>.md", b"x")), "file name '<b>.md' has markup or control"),
    "control character in a file name": Case(
        zipped(("a\x1b.md", b"x")), r"'a\\x1b.md' has markup or control"
    ),
    "zero byte in a file name": Case(
        patched(zipped(("READMEx.md", b"x")), lambda d: d.replace(b"READMEx.md", b"README\0.md")),
        r"'README\\x00.md' has markup or control",
    ),
    "file name in Latin-1": Case(
        patched(zipped(("README-.md", b"x")), lambda d: d.replace(b"README-.md", b"README\xe9.md")),
        "is not UTF-8: rename it",
    ),
    "file name of broken UTF-8": Case(
        patched(zipped(("é.md", b"x")), lambda d: d.replace("é.md".encode(), b"\xff\xfe.md")), "is not UTF-8"
    ),
    "encrypted": Case(patched(zipped(("README.md", b"x")), encrypted), "'README.md' is encrypted"),
    "unusual compression": Case(zipped(kind=zipfile.ZIP_LZMA), "is compressed in an unusual way"),
    "text that unpacks to much": Case(
        zipped(("README.md", ZEROS)), "'?README.md'? has 60 MiB, 256 KiB at most"
    ),
    "zip bomb": Case(
        several(made(lambda f: (f / WEIGHTS).unlink()), zipped((WEIGHTS, ZEROS))),
        "unpacks to far more than its own",
    ),
    "size that is a lie": Case(
        patched(
            zipped(("README.md", b"x" * 5000)),
            lambda d: d.replace(struct.pack("<I", 5000), struct.pack("<I", 10)),
        ),
        "is damaged",
    ),
    "truncated zip": Case(patched(zipped(), lambda d: d[:-200]), "is damaged or cut short"),
    "broken zip": Case(patched(zipped(), lambda d: d[:3000] + b"\0" * 900 + d[3900:]), "is damaged"),
    "long zip directory": Case(
        patched(zipped(), lambda d: d[:-10] + struct.pack("<I", 2**31) + d[-6:]), "has an absurd directory"
    ),
    "second zip directory": Case(
        patched(zipped(), lambda d: d[:-22] + b"PK\x06\x07" + bytes(16) + d[-22:]), "has an absurd directory"
    ),
    "many files": Case(
        zipped(*((f"LICENSE-{n}", b"x") for n in range(20))), "more than 12 files; leave only those"
    ),
    "tar slip": Case(tarred(tar_entry("../out.py")), "'../out.py' leads out of the folder"),
    "absolute path in a tar": Case(tarred(tar_entry("/etc/cron")), "'/etc/cron' is an absolute path"),
    "link in a tar": Case(
        tarred(tar_entry("README.md", tarfile.SYMTYPE, linkname="/etc/passwd")), "is a link"
    ),
    "hard link in a tar": Case(
        tarred(tar_entry("README.md", tarfile.LNKTYPE, linkname="submission.toml")), "is a link"
    ),
    "device in a tar": Case(tarred(tar_entry("README.md", tarfile.BLKTYPE)), "is a device, pipe or socket"),
    "pipe in a tar": Case(tarred(tar_entry("README.md", tarfile.FIFOTYPE)), "is a device, pipe or socket"),
    "folder in a tar": Case(tarred(tar_entry("code", tarfile.DIRTYPE)), "'code' is a folder"),
    "file twice in a tar": Case(tarred(tar_entry("submission.toml")), "'submission.toml' is there twice"),
    "file name in Latin-1 in a tar": Case(
        patched(
            tarred(tar_entry("READMEx.md"), mode="w"), lambda d: retitled(d, b"READMEx.md", b"README\xe9.md")
        ),
        "is not UTF-8: rename it",
    ),
    "absurd size in a tar": Case(absurd_tar, "README.md has 100 GiB, 256 KiB at most"),
    "greedy header": Case(greedy_tar, "a tar header of an absurd size"),
    "backwards tar": Case(backwards_tar, "damaged|absurd|no submission.toml|twice"),
    "gzip bomb": Case(
        named("sent.tar.gz", gzip.compress(b"\0" * 257 + b"ustar" + ZEROS, 9)), "unpacks to far more"
    ),
    "truncated tar": Case(patched(tarred(mode="w"), lambda d: d[:30000]), "damaged|no submission.toml"),
    "truncated gzip": Case(patched(tarred(), lambda d: d[:-3000]), "is damaged"),
    "broken gzip": Case(
        patched(tarred(), lambda d: d[:2000] + b"\0" * 50 + d[2050:]), "is damaged|cannot read"
    ),
    "another archive": Case(
        named("sent.tar.xz", b"\xfd7zXZ\x00" + bytes(100)), "is no folder, .zip, .tar or .tar.gz"
    ),
    "nothing": Case(named("sent.zip", b""), "is no folder, .zip"),
    "no manifest": Case(
        several(made(lambda f: (f / "submission.toml").unlink()), zipped()), "has no submission.toml in it"
    ),
    "link in the folder": Case(
        made(lambda f: (f / "README.md").symlink_to("/etc/passwd")), "'README.md' is a link"
    ),
    "pipe in the folder": Case(made(lambda f: os.mkfifo(f / "README.md")), "is a device, pipe or socket"),
    "folder in the folder": Case(put("__pycache__/x.pyc"), "'__pycache__' is a folder"),
    "unknown file in the folder": Case(put("train.py"), "'train.py' does not belong in a submission"),
    "a book as README": Case(put("README.md", b"x" * 300_000), "README.md has 293 KiB, 256 KiB at most"),
    "nothing there": Case(lambda folder: folder / "absent", "there is no folder or file"),
}


def retitled(data: bytes, old: bytes, new: bytes) -> bytes:
    """A tar file with another name in a header, and its sum made right."""
    at = data.find(old)
    header = bytearray(data[at : at + 512].replace(old, new))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


ARCHIVES = {name: case._replace(status="refused") for name, case in ARCHIVES.items()}
CASES = {**MANIFESTS, **FILES, **CODE, **ARCHIVES}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil; code would run in this process, and every probe is small."""
    run_in_process(monkeypatch)
    probe_quickly(monkeypatch)
    return copied(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_is_refused_or_flagged_for_its_own_reason_and_changes_nothing(
    name: str, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    here = example.parent / "here"
    (here / "results" / "records").mkdir(parents=True)
    (here / "results" / "records" / "one.parquet").write_bytes(b"a record")
    monkeypatch.chdir(here)
    sent = case.spoil(example) or example
    before = tree_hash(example.parent)
    try:
        lines: list[tuple[str, str]] = [
            (each.status, each.text) for each in checked(sent, trust_code=case.trust_code)
        ]
    except BenchError as error:
        lines = [("refused", str(error))]
    told = [text for status, text in lines if status == case.status and re.search(case.said, text)]
    assert len(told) == 1, lines
    assert all(text.isprintable() and len(text) < 600 for _, text in lines)
    assert str(example.parent) not in str(lines)
    assert tree_hash(example.parent) == before


def test_the_worked_example_is_not(example: Path) -> None:
    """The table means something: what it spoils was sound."""
    assert [each for each in checked(example) if each.status != "ok"] == []


def test_the_table_is_long_and_its_reasons_are_many() -> None:
    assert len(CASES) >= 60
    assert len({case.said for case in CASES.values()}) >= 100
