// Sorts the tables of detectors' pages by the number a cell begins with; cells without one come last.
"use strict";
(function () {
  var collator = new Intl.Collator("en", { numeric: true });

  function value(row, index) {
    var text = row.cells[index].textContent.trim();
    if (!index) return text;
    var number = parseFloat(text.replace("−", "-"));
    return Number.isNaN(number) ? null : number;
  }

  function sortable(table) {
    var heads = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
    var body = table.tBodies[0], rows = Array.from(body.rows);

    function sort(index, down) {
      var keyed = rows.map(function (row, place) { return { row: row, key: value(row, index), place: place }; });
      keyed.sort(function (one, other) {
        var a = one.key, b = other.key, order;
        if (a === null || b === null) return (a === null) - (b === null) || one.place - other.place;
        order = index ? a - b : collator.compare(a, b);
        return (down ? -order : order) || one.place - other.place;
      });
      body.append.apply(body, keyed.map(function (each) { return each.row; }));
      heads.forEach(function (head) { head.removeAttribute("aria-sort"); });
      heads[index].setAttribute("aria-sort", down ? "descending" : "ascending");
      table.classList.add("sorted");
    }

    heads.forEach(function (head, index) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", function () {
        var now = head.getAttribute("aria-sort");
        sort(index, now ? now === "ascending" : index > 0);
      });
    });
    table.classList.add("live");
  }

  document.querySelectorAll("table.sortable").forEach(sortable);
})();
