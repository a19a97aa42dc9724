"use strict";
// Drawing, and what the controls do.

const PREVIEWS = 3, MOST_STREAMS = 4;
let running = null, compared = null;

async function draw() {
  const wanted = settings(), asked = requests(wanted, $("compare").checked ? compared : null);
  const tiles = addTiles(asked), images = [];
  running = new AbortController();
  setBusy(true);
  showError("");
  setStatus("Waiting …");
  watchQueue();
  const total = tiles.flat().length;
  try {
    await drawAll(asked, tiles, images);
    setStatus(total === 1 ? "The image is finished." : `All ${total} images are finished.`);
  } catch (error) {
    setStatus(error.name === "AbortError" ? "Stopped." : "");
    if (error.name !== "AbortError") showError(wordsFor(error));
    running.abort();
    tiles.flat().filter((tile) => !tile.dataset.done).forEach((tile) => tile.remove());
  } finally {
    running = null;
    stopWatching();
    setBusy(false);
    if (images.length) finishDrawing({ settings: wanted, requests: asked, images });
  }
}

function finishDrawing(drawing) {
  drawing.images.sort((a, b) => a.series - b.series || a.index - b.index);
  if ($("lock").checked && $("seed").value === "") $("seed").value = drawing.images[0].seed;
  remember(drawing);
}

/** Draw all requests, some at a time: the service shares its network calls among them. */
async function drawAll(asked, tiles, images) {
  const waiting = asked.keys(), progress = new Map();
  const worker = async () => {
    for (const series of waiting) await drawStream(asked[series], series, tiles[series], images, progress);
  };
  await Promise.all(Array.from({ length: Math.min(MOST_STREAMS, asked.length) }, worker));
}

/** Request images and show the events of the stream. */
async function drawStream(request, series, tiles, images, progress) {
  const { letter, label, vary, ...body } = request;
  const response = await post({ ...body, response_format: "b64_json", stream: true, partial_images: PREVIEWS }, running.signal);
  let done = 0;
  for await (const { name, data } of events(response.body)) {
    if (name === "progress") {
      showProgress(progress.set(series, data));
      showCall(data);
    }
    if (name === "image_generation.partial_image") show(tiles[data.index], data.b64_json);
    if (name === "image_generation.completed") {
      const drawn = { base64: data.b64_json, seed: data.seed, series, index: data.index, request };
      finish(tiles[data.index], drawn);
      images.push(drawn);
      done += 1;
    }
    if (name === "error") throw new ServiceError(messageFor(data.error));
  }
  if (done < request.n) throw new ServiceError("The connection ended before all images were finished.");
}

function showProgress(progress) {
  const sum = (name) => [...progress.values()].reduce((total, each) => total + each[name], 0);
  $("progress").value = sum("steps_done") / sum("steps");
  setStatus(`Step ${sum("steps_done")} of ${sum("steps")}`, false);
}

function setBusy(busy) {
  // Not `disabled`, by which the keyboard would lose its place.
  $("draw").setAttribute("aria-disabled", busy);
  if (document.activeElement === $("stop")) $("draw").focus();
  $("stop").disabled = !busy;
  $("progress").hidden = !busy;
  $("progress").value = 0;
  $("images").setAttribute("aria-busy", busy);
}

/** Show a status; frequent changes are not announced to screen readers. */
function setStatus(message, isAnnounced = true) {
  $("status").setAttribute("aria-live", isAnnounced ? "polite" : "off");
  $("status").textContent = message;
}

function showError(message) {
  $("error").hidden = !message;
  $("error").textContent = message;
  if (message.includes("API key")) $("access").open = true;
}

/** Draw; a service that has not described its model yet is asked again first, for its classes and defaults. */
async function submit(event) {
  event.preventDefault();
  if (!running && !model) await loadModel();
  if (!running && model) draw();
}

async function loadModel() {
  if (!model) $("model").textContent = "loading the model …";
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) throw await errorOf(response);
    showModel((await response.json()).data[0]);
    showError("");
  } catch (error) {
    $("model").textContent = "";
    showError(wordsFor(error));
  }
}

function showModel(found) {
  model = found;
  $("model").replaceChildren(`${found.id} `, Object.assign(document.createElement("code"), { textContent: found.digest.slice(0, 12) }));
  const names = found.class_names ?? [];
  $("class").replaceChildren(new Option("any", ""), ...names.map((name, label) => new Option(name, label)));
  $("class").disabled = !names.length;
  for (const value of ["class_label", "guidance_scale"]) $("vary").querySelector(`[value=${value}]`).hidden = !names.length;
  $("steps").max = found.max_steps;
  $("steps").value = found.steps;
  $("form").elements.sampler.value = found.sampler;
  $("guidance").value = $("guidance").dataset.default = found.guidance_scale;
  updateControls();
  followLink();
}

function compareWithThese() {
  compared = $("compare").checked ? settings() : null;
  $("settings-a").hidden = !compared;
  $("settings-a").textContent = compared ? `A: ${inWords(compared)}. What you change now is B.` : "";
}

$("form").addEventListener("submit", submit);
$("guidance").addEventListener("input", () => delete $("guidance").dataset.default);
$("form").addEventListener("input", updateControls);
$("compare").addEventListener("change", compareWithThese);
$("lock").addEventListener("change", () => { if (!$("lock").checked) $("seed").value = ""; else if (current) keepSeed(current.images[0].seed); updateControls(); });
$("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
$("key").addEventListener("change", loadModel);
$("zip").addEventListener("click", saveAll);
$("link").addEventListener("click", copyLink);
$("open").addEventListener("change", () => { if ($("open").files.length) openPicture($("open").files[0]); $("open").value = ""; });
$("redraw").addEventListener("click", redraw);
$("close-passport").addEventListener("click", () => { closePassport(); $("open").focus(); });
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); document.body.classList.toggle("dropping", name === "dragover"); });
}
document.addEventListener("drop", (event) => { if (event.dataTransfer.files.length) openPicture(event.dataTransfer.files[0]); });
offerSamplers();
updateControls();
loadModel();
