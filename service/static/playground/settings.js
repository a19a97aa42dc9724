"use strict";
// The settings in the form: what is drawn by them, in words, and as a link.

const LARGEST_SEED = 2n ** 63n - 1n;
const SAMPLERS = { dpmpp_2m: "DPM++ 2M", ddim: "DDIM", ddpm: "DDPM" };
const GUIDANCES = [1, 1.5, 2, 3, 5, 8], MOST_IMAGES = 16;
let model = null;

function offerSamplers() {
  const choices = Object.entries(SAMPLERS).map(([value, title], number) => {
    const choice = Object.assign(document.createElement("label"), { className: "choice" });
    choice.append(Object.assign(document.createElement("input"), { type: "radio", name: "sampler", value, checked: number === 0 }), title);
    return choice;
  });
  $("samplers").replaceChildren(...choices);
}

/** The settings as the form has them; `seed` is null where none is given. */
function settings() {
  const label = $("class").value;
  return {
    class_label: label === "" ? null : Number(label),
    n: Number($("number").value),
    seed: $("seed").value === "" ? null : $("seed").value,
    steps: Number($("steps").value),
    sampler: new FormData($("form")).get("sampler"),
    guidance_scale: label === "" ? 1 : guidance(),
    vary: $("vary").value,
  };
}

function setSettings(wanted) {
  $("class").value = wanted.class_label ?? "";
  $("number").value = wanted.n;
  $("seed").value = wanted.seed ?? "";
  $("steps").value = wanted.steps;
  $("form").elements.sampler.value = wanted.sampler;
  if (wanted.class_label !== null) $("guidance").value = $("guidance").dataset.default = wanted.guidance_scale;
  $("vary").value = wanted.vary ?? "";
  updateControls();
}

/** The model's default is kept as it is, whatever the steps and the ends of the slider, until the slider is moved. */
const guidance = () => Number($("guidance").dataset.default ?? $("guidance").value);

/** A seed that JavaScript holds exactly, as a string. */
function randomSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return String(BigInt(high & 0x1fffff) * 2n ** 32n + BigInt(low));
}

/** The values that "Show" runs through with one seed, each with its words. */
function variations({ vary, steps }) {
  switch (vary) {
    case "class_label": return (model?.class_names ?? []).slice(0, MOST_IMAGES).map((name, label) => [label, name]);
    case "guidance_scale": return GUIDANCES.map((scale) => [scale, scale === 1 ? "no guidance" : `guidance ${scale}`]);
    case "steps": {
      const counts = [1, 2, 5, 10, 20, 50].filter((count) => count <= (model?.max_steps ?? 1));
      return [...new Set([...counts, steps])].sort((a, b) => a - b).map((count) => [count, `${count} steps`]);
    }
    case "sampler": return Object.entries(SAMPLERS);
    default: return [];
  }
}

/** Requests for these settings and, if there are some, those to compare with; each with the label of its images, and A or B. */
function requests(wanted, compared) {
  const pairs = (compared ? [["A", compared], ["B", wanted]] : [["", wanted]]);
  const isFixed = compared || variations(wanted).length;
  const seed = wanted.seed ?? (isFixed ? randomSeed() : null), n = wanted.n;
  return pairs.flatMap(([letter, each]) => {
    const values = variations(wanted);
    if (!values.length) return [{ letter, label: letter, ...each, seed, n }];
    return values.map(([value, words]) => ({ letter, label: [letter, words].filter(Boolean).join(": "), ...each, seed, n: 1, [wanted.vary]: value }));
  });
}

function inWords({ class_label: label, steps, sampler, guidance_scale: scale }) {
  const guided = scale === 1 ? "" : `, guidance ${scale}`;
  return `${className(label)}, ${SAMPLERS[sampler]}, ${steps} ${steps === 1 ? "step" : "steps"}${guided}`;
}

const className = (label) => label === null ? "any class" : model?.class_names?.[label] ?? `class ${label}`;

/** A link by which the page opens with these settings. */
function linkTo(wanted) {
  const known = Object.entries(wanted).filter(([, value]) => value !== null && value !== "");
  return `${location.origin}${location.pathname}#${new URLSearchParams(known)}`;
}

/** Take the settings of the link by which the page was opened; what is no setting is left out. */
function followLink() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!given.size) return;
  const number = (name, fallback) => given.has(name) && given.get(name) !== "" && Number.isFinite(Number(given.get(name))) ? Number(given.get(name)) : fallback;
  const before = settings();
  setSettings({
    class_label: number("class_label", null),
    n: number("n", before.n),
    seed: /^\d{1,19}$/.test(given.get("seed") ?? "") ? given.get("seed") : null,
    steps: number("steps", before.steps),
    sampler: given.get("sampler") in SAMPLERS ? given.get("sampler") : before.sampler,
    guidance_scale: number("guidance_scale", model.guidance_scale),
    vary: [...$("vary").options].some((option) => option.value === given.get("vary")) ? given.get("vary") : "",
  });
}

function updateControls() {
  $("number-shown").textContent = $("number").value;
  const isVaried = $("vary").value !== "";
  $("number").disabled = isVaried;
  const guided = $("class").value !== "" || $("vary").value === "class_label";
  $("guidance").disabled = !guided;
  $("guidance-row").classList.toggle("disabled", !guided);
  const shown = !guided || guidance() === 1 ? "none" : String(guidance());
  $("guidance-shown").textContent = shown;
  $("guidance").setAttribute("aria-valuetext", shown);
  const seed = $("seed").value;
  $("seed").setCustomValidity(/^\d*$/.test(seed) && (seed === "" || BigInt(seed) <= LARGEST_SEED)
    ? "" : "A whole number from 0 to 9223372036854775807");
}
