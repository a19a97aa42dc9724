"use strict";
// What was drawn since the page was opened; nothing of it outlives the page.

const MOST_DRAWINGS = 30;
const drawings = [];
let current = null;

/** Add a drawing: its settings and its images, each with its request. */
function remember(drawing) {
  drawings.unshift(drawing);
  drawings.splice(MOST_DRAWINGS);
  setCurrent(drawing);
}

function setCurrent(drawing) {
  current = drawing;
  $("images-tools").hidden = $("history-part").hidden = !current;
  const isFocused = $("history").contains(document.activeElement);
  $("history").replaceChildren(...drawings.map(button));
  if (isFocused) $("history").querySelector("[aria-current=true]").focus();
}

function button(drawing) {
  const found = Object.assign(document.createElement("button"), { type: "button", onclick: () => showAgain(drawing) });
  const image = Object.assign(new Image(), { src: dataUrl(drawing.images[0].base64), alt: "" });
  found.append(image, `${inWords(drawing.settings)} (${drawing.images.length})`);
  found.setAttribute("aria-current", drawing === current);
  return found;
}

/** Show the images of a drawing again, and its settings in the form. */
function showAgain(drawing) {
  if (running) return;
  setSettings(drawing.settings);
  const tiles = addTiles(drawing.requests);
  drawing.images.forEach((image) => finish(tiles[image.series][image.index], image));
  tiles.flat().filter((tile) => !tile.dataset.done).forEach((tile) => tile.remove());
  setCurrent(drawing);
  setStatus("");
}

function saveAll() {
  const names = new Set(), files = current.images.map((image) => {
    let name = fileName(image);
    for (let number = 2; names.has(name); number += 1) name = fileName(image).replace(/\.png$/, `-${number}.png`);
    names.add(name);
    return [name, bytesOf(image.base64)];
  });
  save(zip(files), `images-${current.images[0].seed}.zip`);
}

async function copyLink() {
  const link = linkTo({ ...current.settings, seed: current.images[0].seed });
  try {
    await navigator.clipboard.writeText(link);
    setStatus("The link is copied. It opens this page with these settings and this seed.");
  } catch {
    location.hash = new URL(link).hash;
    setStatus("The link is in the address bar.");
  }
}
