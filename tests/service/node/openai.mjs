// OpenAI's client for JavaScript against the service at argv[2]; prints JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "any" });
const draw = (body, options) => client.images.generate({ prompt: "dog", n: 3, steps: 3, ...body }, options);

async function codeOf(promise) {
  try { await promise; return "none"; } catch (error) { return `${error.status} ${error.code}`; }
}

const together = await draw({ seed: 9 });
const alone = await Promise.all(together.data.map(({ seed }) => draw({ seed, n: 1 })));
const headers = { "X-Request-ID": process.argv[3] };
console.log(JSON.stringify({
  seeds: together.data.map(({ seed }) => seed),
  together: together.data.map(({ b64_json }) => b64_json),
  alone: alone.map(({ data }) => data[0].b64_json),
  model: (await client.models.retrieve("diffusion-foundry")).id,
  cancelled: await codeOf(draw({ n: 8, steps: 100 }, { headers })),
  late: await codeOf(draw({ steps: 100, deadline_ms: 1 })),
}));
