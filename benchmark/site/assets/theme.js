// Runs before anything is drawn: sets the colours that the user chose earlier.
"use strict";
(function () {
  var root = document.documentElement;
  try {
    var chosen = localStorage.getItem("bench-theme");
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  } catch (error) { /* no storage: the system's colours */ }
})();
