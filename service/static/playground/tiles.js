"use strict";
// The images, each a tile: noise, previews, the picture, its seed and its tools.

/** Replace the tiles by one for each image of the requests; returns them by request. */
function addTiles(asked) {
  $("empty").hidden = true;
  $("images").replaceChildren();
  const isPaired = asked.some(({ letter }) => letter === "B");
  $("images").classList.toggle("pairs", isPaired);
  const tiles = asked.map(({ n, label }) => Array.from({ length: n }, () => newTile(label)));
  // Of A and B the images with the same seed stand beside each other.
  const half = tiles.length / 2;
  const order = isPaired ? tiles.slice(0, half).flatMap((row, place) => row.flatMap((tile, i) => [tile, tiles[place + half][i]])) : tiles.flat();
  $("images").append(...order);
  return tiles;
}

function newTile(label) {
  const tile = $("image").content.firstElementChild.cloneNode(true);
  noise(tile.querySelector("canvas"));
  tile.querySelector(".tile-label").textContent = label;
  return tile;
}

function noise(canvas) {
  canvas.width = canvas.height = Number.parseInt(model?.size ?? "28", 10);
  const context = canvas.getContext("2d"), pixels = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const colour = model?.channels === 3 ? [0, 0, 0].map(gauss) : Array(3).fill(gauss());
    pixels.data.set([...colour, 255], i);
  }
  context.putImageData(pixels, 0, 0);
}

const gauss = () => 128 + 48 * Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

/** Put an image over the previous one, which stays until the new one has faded in. */
function show(tile, base64, alt = "") {
  const image = new Image(), frame = tile.querySelector(".frame");
  image.src = dataUrl(base64);
  image.alt = alt;
  frame.append(image);
  while (frame.children.length > 2) frame.firstElementChild.remove();
}

/** Show a finished image with its seed and tools. */
function finish(tile, drawn) {
  const { base64, seed, request } = drawn;
  const label = className(request.class_label);
  show(tile, base64, `${label}, seed ${seed}`);
  tile.dataset.done = "yes";
  const shown = tile.querySelector(".seed"), download = tile.querySelector(".download");
  shown.textContent = shown.title = seed;
  shown.classList.remove("none");
  const tool = (name, words, title, use) => {
    const button = Object.assign(tile.querySelector(name), { title, onclick: use, hidden: false });
    button.setAttribute("aria-label", words);
  };
  tool(".keep", `Keep seed ${seed}`, "Keep this seed for the next images", () => keepSeed(seed));
  tool(".copy", `Copy seed ${seed}`, "Copy the seed", () => copySeed(shown));
  tool(".download", `Download the image with seed ${seed}`, "Download the PNG", null);
  download.href = dataUrl(base64);
  download.download = fileName(drawn);
}

/** Class, label and seed; letters and digits of any script, and few enough for a file system's 255 bytes. */
function fileName({ seed, request }) {
  const plain = (words) => words.replace(/[^\p{L}\p{M}\p{N}]+/gu, "-").replace(/^-|-$/g, "").toLowerCase();
  const name = plain(className(request.class_label)) || `class-${request.class_label}`;
  const words = [...new Set([name, plain(request.label)])].filter(Boolean).join("-");
  return `${[...words].slice(0, 50).join("")}-${seed}.png`;
}

function keepSeed(seed) {
  $("seed").value = seed;
  $("lock").checked = true;
  updateControls();
  setStatus(`Seed ${seed} is kept for the next images.`);
}

async function copySeed(shown) {
  try {
    await navigator.clipboard.writeText(shown.textContent);
    setStatus(`Seed ${shown.textContent} copied.`);
  } catch {
    // Without permission to copy, the seed is left selected for the keyboard.
    getSelection().selectAllChildren(shown);
    setStatus("The seed is selected; copy it with Ctrl+C.");
  }
}
