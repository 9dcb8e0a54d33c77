// Interaction: sort, filter, details, compare, copy.
"use strict";
(function () {
  function byId(id) { return document.getElementById(id); }

  function make(tag, attributes, children) {
    var node = document.createElement(tag);
    Object.keys(attributes || {}).forEach(function (name) { node.setAttribute(name, attributes[name]); });
    (Array.isArray(children) ? children : [children]).forEach(function (child) {
      if (child !== undefined && child !== null) node.append(child);
    });
    return node;
  }

  function fromHash() { return new URLSearchParams(location.hash.slice(1)); }

  function toHash(parameters) {
    var text = parameters.toString();
    try {
      history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
    } catch (error) { location.hash = text; }
  }

  function embedded(id) {
    var node = byId(id);
    return node && JSON.parse(node.textContent);
  }

  // Colours

  function theme() {
    var button = byId("theme"), root = document.documentElement;
    function dark() {
      var chosen = root.dataset.theme;
      return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    }
    function name() {
      var text = dark() ? "Light colours" : "Dark colours";
      button.setAttribute("aria-label", text);
      button.setAttribute("title", text);
    }
    button.hidden = false;
    name();
    button.addEventListener("click", function () {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("bench-theme", root.dataset.theme); } catch (error) { /* not kept */ }
      name();
    });
  }

  // Commands

  function copying() {
    document.querySelectorAll(".copy").forEach(function (button) {
      button.hidden = false;
      button.addEventListener("click", function () {
        var code = button.parentNode.querySelector("code");
        function done(said) {
          button.textContent = said;
          setTimeout(function () { button.textContent = "Copy"; }, 1600);
        }
        function select() {
          getSelection().selectAllChildren(code);
          var worked = false;
          try { worked = document.execCommand("copy"); } catch (error) { /* selected, at least */ }
          done(worked ? "Copied" : "Selected");
        }
        if (navigator.clipboard && isSecureContext) {
          navigator.clipboard.writeText(code.textContent).then(function () { done("Copied"); }, select);
        } else { select(); }
      });
    });
  }

  // Tables that sort

  var collator = new Intl.Collator("en", { numeric: true });

  // Orders {key, place, …}: what has no key comes last, equal ones stay in their place.
  function order(keyed, down) {
    return keyed.sort(function (one, other) {
      var a = one.key, b = other.key, way = 0;
      if (a === null || b === null) return (a === null) - (b === null) || one.place - other.place;
      if (typeof a === "string") way = collator.compare(a, b); else way = a - b;
      return (down ? -way : way) || one.place - other.place;
    });
  }

  function buttons(heads, clicked) {
    heads.forEach(function (head, index) {
      var button = make("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      button.addEventListener("click", function () { clicked(head, index); });
    });
  }

  function mark(heads, head, down) {
    heads.forEach(function (each) { each.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  // A table by itself, by the number a cell begins with

  function sortable(table) {
    var heads = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
    var body = table.tBodies[0], rows = Array.from(body.rows);

    function value(row, index) {
      var text = row.cells[index].textContent.trim(), number = parseFloat(text.replace("−", "-"));
      return index ? (Number.isNaN(number) ? null : number) : text;
    }

    buttons(heads, function (head, index) {
      var now = head.getAttribute("aria-sort"), down = now ? now === "ascending" : index > 0;
      var keyed = rows.map(function (row, place) { return { row: row, key: value(row, index), place: place }; });
      body.append.apply(body, order(keyed, down).map(function (each) { return each.row; }));
      mark(heads, head, down);
      table.classList.add("sorted");
    });
    table.classList.add("live");
  }

  // A board

  function board(data) {
    var table = byId("board"), form = byId("tools"), bodies = Array.from(table.tBodies);
    var heads = Array.from(table.tHead.rows[0].cells), state = {};
    var PART = 60, turn = 0, columnOf = {};
    data.columns.forEach(function (column, i) { columnOf[column.key] = i; });
    var rows = [];
    bodies.forEach(function (body, part) {
      Array.from(body.rows).forEach(function (node) {
        if (!node.classList.contains("rule")) rows.push({ node: node, body: part, place: rows.length });
      });
    });
    rows.forEach(function (row, i) { row.data = data.rows[i]; });

    function value(row, name) {
      if (name === "rank") return row.body ? null : row.place;
      if (name === "defense") return row.data.label.toLowerCase();
      if (name === "seeds") return row.data.seeds.length;
      if (name === "flags") return row.data.flags;
      if (name === "status") return row.data.status;
      return row.data.means[columnOf[name]];
    }

    function downFirst(name) { return !(name === "rank" || name === "defense" || name === "status"); }

    function sort(name, down) {
      var keyed = order(rows.map(function (row) {
        return { row: row, key: value(row, name), place: row.place };
      }), down);
      inSteps(keyed.map(function (each) { return each.row; }));
      bodies.forEach(function (body, part) {
        var fragment = document.createDocumentFragment();
        keyed.forEach(function (each) {
          if (each.row.body !== part) return;
          fragment.append(each.row.node);
          if (each.row.more) fragment.append(each.row.more);
        });
        body.append(fragment);
      });
      mark(heads, heads.find(function (head) { return head.dataset.column === name; }), down);
    }

    // A long table is laid out from the top, a part per frame: all at once takes too long.
    function inSteps(rows) {
      var mine = ++turn, waiting = [], shown = 0;
      rows.forEach(function (row) {
        var late = !row.node.hidden && ++shown > PART && rows.length > 2 * PART;
        row.node.classList.toggle("later", late);
        if (late) waiting.push(row.node);
      });
      function more() {
        if (mine !== turn) return;
        waiting.splice(0, PART).forEach(function (node) { node.classList.remove("later"); });
        if (waiting.length) requestAnimationFrame(more);
      }
      if (waiting.length) requestAnimationFrame(function () { requestAnimationFrame(more); });
    }

    function filter() {
      var words = state.q.toLowerCase().split(/\s+/).filter(Boolean), shown = 0;
      rows.forEach(function (row) {
        var d = row.data;
        var fits = words.every(function (word) { return d.text.includes(word); }) &&
          (!state.group || d.group === state.group) && d.seeds.length >= state.seeds &&
          (!state.flag || (d.flags > 0) === (state.flag === "yes"));
        row.node.hidden = !fits;
        if (row.more) row.more.hidden = !fits;
        shown += fits;
      });
      bodies.forEach(function (body, part) {
        var any = rows.some(function (row) { return row.body === part && !row.node.hidden; });
        if (part) body.hidden = !any;
      });
      byId("count").textContent = shown + " of " + rows.length + (rows.length === 1 ? " row" : " rows");
    }

    function columns() {
      heads.forEach(function (head, i) {
        var hidden = state.hide.includes(head.dataset.column);
        if (head.hidden === hidden) return;
        head.hidden = hidden;
        rows.forEach(function (row) { row.node.cells[i].hidden = hidden; });
      });
      form.querySelectorAll("[data-column]").forEach(function (box) {
        box.checked = !state.hide.includes(box.dataset.column);
      });
    }

    function read() {
      var hash = fromHash(), names = heads.map(function (head) { return head.dataset.column; });
      var sorted = hash.get("sort");
      state = {
        q: hash.get("q") || "", group: hash.get("group") || "", flag: hash.get("flag") || "",
        seeds: Number(hash.get("seeds")) || 1,
        sort: names.includes(sorted) ? sorted : "worst-case", hide: hash.getAll("hide")
      };
      state.down = hash.has("dir") ? hash.get("dir") === "down" : downFirst(state.sort);
      byId("q").value = state.q;
      [["group", state.group], ["flag", state.flag], ["seeds", String(state.seeds)]].forEach(function (pair) {
        byId(pair[0]).value = pair[1];
        if (byId(pair[0]).value !== pair[1]) byId(pair[0]).selectedIndex = 0;
      });
      state.group = byId("group").value;
      state.flag = byId("flag").value;
    }

    function write() {
      var hash = new URLSearchParams();
      ["q", "group", "flag"].forEach(function (name) { if (state[name]) hash.set(name, state[name]); });
      if (state.seeds > 1) hash.set("seeds", state.seeds);
      if (state.sort !== "worst-case" || !state.down) {
        hash.set("sort", state.sort);
        hash.set("dir", state.down ? "down" : "up");
      }
      state.hide.forEach(function (name) { hash.append("hide", name); });
      toHash(hash);
    }

    function show() {
      sort(state.sort, state.down);
      filter();
      columns();
    }

    function details(row, button) {
      if (row.more) {
        row.more.remove();
        row.more = null;
        button.setAttribute("aria-expanded", "false");
        return;
      }
      var head = make("tr", {}, ["Attack", "Mean, %", "95 % interval"].map(function (text, i) {
        return make("th", i ? { scope: "col", "class": "n" } : { scope: "col" }, text);
      }).concat(row.data.seeds.map(function (seed) {
        return make("th", { scope: "col", "class": "n" }, "seed " + seed);
      })));
      var lines = data.columns.map(function (column, i) { return line(column.label, row.data.cells[i]); });
      var inner = make("table", { "class": "data" }, [make("thead", {}, head), make("tbody", {}, lines)]);
      var width = heads.length;
      row.more = make("tr", { "class": "more" }, make("td", { colspan: width }, inner));
      row.node.after(row.more);
      button.setAttribute("aria-expanded", "true");
    }

    function line(label, texts) {
      return make("tr", {}, [make("th", { scope: "row" }, label)].concat(texts.map(function (text) {
        return make("td", { "class": "n" }, text);
      })));
    }

    buttons(heads, function (head) {
      var name = head.dataset.column;
      state.down = state.sort === name ? !state.down : downFirst(name);
      state.sort = name;
      sort(state.sort, state.down);
      write();
    });
    rows.forEach(function (row) {
      var button = make("button", {
        type: "button", "class": "open", "aria-expanded": "false", "aria-label": "Seeds and intervals of " + row.data.label
      }, "±");
      button.addEventListener("click", function () { details(row, button); });
      row.node.cells[0].append(button);
    });
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    form.addEventListener("reset", function (event) {
      event.preventDefault();
      toHash(new URLSearchParams());
      read();
      show();
    });
    byId("q").addEventListener("input", function (event) { state.q = event.target.value; filter(); write(); });
    ["group", "flag", "seeds"].forEach(function (name) {
      byId(name).addEventListener("change", function (event) {
        state[name] = name === "seeds" ? Number(event.target.value) : event.target.value;
        filter();
        write();
      });
    });
    form.addEventListener("change", function (event) {
      var name = event.target.dataset.column;
      if (!name) return;
      state.hide = state.hide.filter(function (each) { return each !== name; });
      if (!event.target.checked) state.hide.push(name);
      columns();
      write();
    });
    document.addEventListener("click", function (event) {
      var menu = form.querySelector(".columns");
      if (menu.open && !menu.contains(event.target)) menu.open = false;
    });
    form.querySelector(".columns").addEventListener("keydown", function (event) {
      if (event.key === "Escape") {
        this.open = false;
        this.querySelector("summary").focus();
      }
    });
    addEventListener("hashchange", function () { read(); show(); });
    table.classList.add("live");
    form.hidden = false;
    read();
    show();
  }

  // Two defenses

  var compared = {}, VERDICTS = ["worse", "not shown to be better or worse", "better"];
  window.benchComparisons = function (of) { compared[of.board + "/" + of.row] = of; };

  function load(slug, row, then) {
    var key = slug + "/" + row;
    if (compared[key]) { then(); return; }
    var script = make("script", { src: "data/" + slug + "/" + row + ".js" });
    script.addEventListener("load", then);
    script.addEventListener("error", function () {
      byId("compared").replaceChildren(make("p", { "class": "warning" }, "The file data/" + key + ".js is missing."));
    });
    document.head.append(script);
  }

  function compare(boards) {
    var pick = byId("board-of"), first = byId("first"), second = byId("second"), target = byId("compared");
    var form = byId("pair");

    function current() { return boards[pick.selectedIndex]; }

    function fill(select, wanted, otherwise) {
      select.replaceChildren.apply(select, current().rows.map(function (row) {
        return make("option", { value: row[0] }, row[1] + (row[2] ? " (" + row[2] + ")" : ""));
      }));
      select.value = wanted;
      if (select.selectedIndex < 0) select.selectedIndex = Math.min(otherwise, current().rows.length - 1);
    }

    function read() {
      var hash = fromHash(), slugs = boards.map(function (each) { return each.slug; });
      pick.selectedIndex = Math.max(0, slugs.indexOf(hash.get("board")));
      fill(first, hash.get("a"), 0);
      fill(second, hash.get("b"), first.selectedIndex === 1 ? 0 : 1);
      show();
    }

    function write() {
      toHash(new URLSearchParams([["board", current().slug], ["a", first.value], ["b", second.value]]));
    }

    function show() {
      var board = current(), one = first.value, other = second.value;
      load(board.slug, one, function () {
        load(board.slug, other, function () {
          if (board !== current() || one !== first.value || other !== second.value) return;
          table(board, compared[board.slug + "/" + one], compared[board.slug + "/" + other]);
        });
      });
    }

    function table(board, ours, theirs) {
      var rows = [board.rows[first.selectedIndex], board.rows[second.selectedIndex]];
      var against = ours.against[theirs.row] || {}, seeds = {};
      Object.keys(against).forEach(function (column) {
        against[column][3].forEach(function (test) { seeds[test[0]] = true; });
      });
      var shared = Object.keys(seeds).map(Number).sort(function (a, b) { return a - b; });
      var tall = shared.length ? 2 : 1, under = make("tr"), head = make("tr", {}, [
        make("th", { scope: "col", rowspan: tall }, "Attack"), heading(rows[0], tall), heading(rows[1], tall),
        make("th", { scope: "col", rowspan: tall, "class": "n" }, "Difference"),
        make("th", { scope: "col", rowspan: tall, "class": "n" }, "95 % interval"),
        make("th", { scope: "col", rowspan: tall }, "The first is")
      ].concat(shared.map(function (seed) {
        return make("th", { scope: "colgroup", colspan: 3, "class": "top-row split" }, "seed " + seed);
      })));
      shared.forEach(function () {
        ["only first", "only second", "p"].forEach(function (text, i) {
          under.append(make("th", { scope: "col", "class": i ? "n" : "n split" }, text));
        });
      });
      var lines = board.columns.map(function (column) {
        var key = column[0], figures = [ours.figures[key], theirs.figures[key]];
        return line(column[1], figures, against[key] || ["–", "–", null, []], shared);
      });
      var title = rows[0][1] + " and " + rows[1][1] + ", " + board.title;
      var inner = make("table", { "class": "data cells" }, [
        make("caption", { "class": "visually-hidden" }, title), make("thead", {}, tall > 1 ? [head, under] : head),
        make("tbody", {}, lines)
      ]);
      target.replaceChildren(
        make("div", { "class": "scroll plain", tabindex: "0", role: "region", "aria-label": title }, inner)
      );
      var alike = rows[0][4] === rows[1][4] && rows[0][4].indexOf("unknown") < 0;
      var known = rows[0][4].indexOf("unknown") < 0 && rows[1][4].indexOf("unknown") < 0;
      target.append(make("p", { "class": "facts trained" }, "Trained: " + rows[0][1] + ", " + rows[0][4] + "; " +
        rows[1][1] + ", " + rows[1][4] + "." + (alike || !known ? "" : " Not for the same epochs: the difference" +
        " may come from that as well.") + (known ? "" : " Whether for the same epochs is not known.")));
      if (!shared.length) target.append(make("p", { "class": "facts" }, "They have no seed in common, so nothing is paired."));
    }

    function heading(row, tall) {
      var cell = make("th", { scope: "col", rowspan: tall, "class": "n" });
      cell.append(make("a", { href: "defenses/" + row[3] + ".html" }, row[1]));
      return cell;
    }

    function line(label, figures, against, shared) {
      var texts = [figures[0] || "–", figures[1] || "–", against[0], against[1]];
      var cells = texts.map(function (text) { return make("td", { "class": "n" }, text); });
      cells.push(make("td", {}, against[2] === null ? "–" : VERDICTS[against[2] + 1]));
      shared.forEach(function (seed) {
        var test = against[3].find(function (each) { return each[0] === seed; }) || [seed, "–", "–", "–"];
        test.slice(1).forEach(function (text, i) {
          cells.push(make("td", { "class": i ? "n" : "n split" }, String(text)));
        });
      });
      var kind = label === "Worst case" ? { "class": "worst" } : {};
      return make("tr", kind, [make("th", { scope: "row" }, label)].concat(cells));
    }

    boards.forEach(function (each) { pick.append(make("option", { value: each.slug }, each.title)); });
    pick.addEventListener("change", function () {
      fill(first, "", 0);
      fill(second, "", 1);
      write();
      show();
    });
    [first, second].forEach(function (select) {
      select.addEventListener("change", function () { write(); show(); });
    });
    byId("swap").addEventListener("click", function () {
      var kept = first.value;
      first.value = second.value;
      second.value = kept;
      write();
      show();
    });
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    addEventListener("hashchange", read);
    form.hidden = false;
    read();
  }

  theme();
  copying();
  document.querySelectorAll("table.sortable").forEach(sortable);
  var boardData = embedded("board-data"), compareData = embedded("compare-data");
  if (boardData) board(boardData);
  if (compareData) compare(compareData);
})();
