"""Run a submitted file inside the confined process; what it raises becomes a stage and a reason."""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

MODEL, ATTACK = "model.py", "attack.py"
_LONGEST = 2_000  # characters of an error
_NO_MEMORY = ("can't allocate memory", "bad_alloc", "Cannot allocate memory", "out of memory")


class Refused(Exception):  # noqa: N818
    """The submitted code is invalid: a stage and the reason."""

    def __init__(self, stage: str, text: str) -> None:
        super().__init__(text)
        self.stage, self.text = stage, text


def imported(file: str) -> ModuleType:
    """Import ``file`` from the scratch folder; Refused if its code raises."""
    from importlib.util import module_from_spec, spec_from_file_location

    name = Path(file).stem
    spec = spec_from_file_location(name, Path(file).resolve())
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        refuse("import", error)
    return module


def refuse(stage: str, error: BaseException) -> NoReturn:
    """Raise Refused for an error of the submitted code."""
    text = words(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY):
        stage, text = "memory", f"{stage}: {text}"
    raise Refused(stage, f"{text}{_place(error)}") from None


def words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {str(error)[:_LONGEST]}"
    except Exception:
        return "an error that cannot be shown"


def _place(error: BaseException) -> str:
    """Return the line of the submitted file in an error's traceback, if there is one."""
    line, file = getattr(error, "lineno", None), getattr(error, "filename", None)
    name = Path(file).name if isinstance(file, str) else ""
    step = error.__traceback__
    while step is not None:
        passed = Path(step.tb_frame.f_code.co_filename).name
        if passed in (MODEL, ATTACK):
            name, line = passed, step.tb_lineno
        step = step.tb_next
    return f" ({name}, line {line})" if isinstance(line, int) and name in (MODEL, ATTACK) else ""


def kind(value: Any) -> str:
    return f"a {type(value).__name__[:100]}"


def raw(tensor: "Tensor") -> memoryview:
    """Return the bytes of a tensor, row by row."""
    return tensor.detach().cpu().contiguous().numpy().data.cast("B")
