// What no Markdown says: cells know their heading, which a phone shows beside them; verdicts are
// badges; the gallery shows what its form asks for. Without this script everything is there still.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    const verdict = heads.indexOf("verdict");
    if (verdict < 0) continue;
    table.classList.add("claims");
    for (const row of table.querySelectorAll("tbody tr"))
      [...row.cells].forEach((cell, place) => {
        const inner = document.createElement("span");
        inner.append(...cell.childNodes);
        cell.append(inner);
        cell.dataset.label = heads[place];
        const word = inner.querySelector("strong");
        if (place === verdict && word)
          word.className = "badge " + word.textContent.trim().replaceAll(" ", "-");
      });
  }

  for (const gallery of document.querySelectorAll(".gallery")) {
    const form = gallery.querySelector(".filters");
    if (!form) continue;
    const cards = [...gallery.querySelectorAll(".card")];
    const shown = form.querySelector("output");
    const choose = () => {
      const asked = new FormData(form);
      const words = asked.get("words").toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const card of cards) {
        const text = card.textContent.toLowerCase();
        const fits = [...form.querySelectorAll("select")].every((one) =>
          !one.value || card.dataset[one.name].split("|").includes(one.value));
        card.hidden = !fits || !words.every((word) => text.includes(word));
        count += !card.hidden;
      }
      for (const group of gallery.querySelectorAll(".group"))
        group.hidden = !group.querySelector(".card:not([hidden])");
      const all = `${cards.length} paper${cards.length === 1 ? "" : "s"}`;
      shown.textContent = count === cards.length ? all : `${count} of ${all}`;
    };
    form.addEventListener("input", choose);
    form.addEventListener("submit", (event) => event.preventDefault());
    choose();
  }
});
