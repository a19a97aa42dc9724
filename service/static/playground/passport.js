"use strict";
// A picture that was drawn before: its passport, and the same picture once more.

let opened = null;

/** Read a file's passport and show it. */
async function openPicture(file) {
  closePassport();
  const chunks = textChunks(new Uint8Array(await file.arrayBuffer())), text = chunks?.["foundry.passport"];
  if (!chunks) return showError(`${file.name} is no PNG.`);
  let passport;
  try { passport = parse(text); } catch { passport = null; }
  if (!passport) return showError(`${file.name} has no passport: it was not drawn by a service like this one, or another program wrote it again.`);
  showError("");
  opened = passport;
  $("original").src = URL.createObjectURL(file);
  $("passport").querySelector("h2").textContent = file.name;
  $("passport").querySelector("dl").replaceChildren(...facts(passport, "foundry.signature" in chunks).flatMap(([name, value]) => [
    Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value }),
  ]));
  $("verdict").textContent = isOfThisModel(passport) ? "" : "Another model has drawn it: drawn again by this one, it will be another picture.";
  $("passport").hidden = false;
  $("redraw").focus();
}

function facts(passport, isSigned) {
  const interval = passport.guidance_interval;
  return [
    ["seed", passport.seed], ["class", className(passport.class_label)], ["sampler", SAMPLERS[passport.sampler] ?? passport.sampler],
    ["steps", passport.num_steps], ["guidance", passport.guidance_scale === 1 ? "none" : passport.guidance_scale],
    ...(interval ? [["guided part", interval.join(" … ")]] : []), ["eta", passport.eta],
    ["model", passport.model_digest.slice(0, 12)], ["signature", isSigned ? "there is one; `foundry replay` checks it" : "none"],
  ];
}

const isOfThisModel = (passport) => passport.model_digest === model?.digest;

/** Draw the picture by its passport, and compare every pixel. */
async function redraw() {
  const { num_steps: steps, seed, class_label, sampler, eta, guidance_scale, determinism, guidance_interval = [0, 1] } = opened;
  const body = { n: 1, steps, seed, class_label, sampler, eta, guidance_scale, determinism, guidance_interval };
  $("redraw").disabled = true;
  $("verdict").textContent = "Drawing …";
  try {
    const { data } = parse(await (await post(body)).text());
    const image = $("again").querySelector("img");
    image.src = dataUrl(data[0].b64_json);
    await Promise.all([image.decode(), $("original").decode()]);
    $("again").hidden = false;
    $("verdict").textContent = verdictOn(differentPixels($("original"), image));
  } catch (error) {
    $("verdict").textContent = "";
    showError(wordsFor(error));
  } finally {
    $("redraw").disabled = false;
    // A disabled button has lost the focus.
    if (document.activeElement === document.body) $("redraw").focus();
  }
}

function verdictOn(count) {
  if (count === 0) return "It is the same picture: no pixel differs.";
  const why = isOfThisModel(opened) ? "Another machine or another version of a library rounds differently." : "Another model has drawn it.";
  return count === null ? `The pictures have different sizes. ${why}` : `${counted(count, "pixel")} ${count === 1 ? "differs" : "differ"}. ${why}`;
}

function closePassport() {
  if (opened) URL.revokeObjectURL($("original").src);
  opened = null;
  $("passport").hidden = $("again").hidden = true;
}
