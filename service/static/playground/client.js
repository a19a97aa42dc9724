"use strict";
// Requests to the service, the events of its streams, and its errors in words.

const $ = (id) => document.getElementById(id);

// Seeds go up to 2^63 - 1, beyond JavaScript's exact integers: they are strings here and numbers in JSON.
const parse = (json) => JSON.parse(json.replace(/"seed"\s*:\s*(\d+)/g, '"seed":"$1"'));
const stringify = (body) => JSON.stringify(body).replace(/"seed":"(\d+)"/, '"seed":$1');

class ServiceError extends Error {}

/** Post a request for images; the response, if the service accepts it. */
async function post(body, signal) {
  const response = await fetch("v1/images/generations", { method: "POST", headers: headers(), body: stringify(body), signal });
  if (!response.ok) throw await errorOf(response);
  return response;
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

/** The error of a response, with a message for people. */
async function errorOf(response) {
  const text = await response.text();
  let error = {};
  try { error = JSON.parse(text).error ?? {}; } catch { /* not from the service itself */ }
  return new ServiceError(messageFor(error, response.status, response.headers.get("Retry-After")));
}

function messageFor(error, status, retryAfter) {
  const again = retryAfter ? `Try again in ${retryAfter} s.` : "Try again in a moment.";
  switch (error.code ?? status) {
    case "invalid_api_key": return "The service needs a valid API key. Enter it under “API key”.";
    case "host_not_allowed": return "The service answers only to its own name. Set FOUNDRY_ALLOWED_HOSTS there.";
    case "queue_full": case "key_share_exceeded": case "too_many_connections": return `The service is busy. ${again}`;
    case "draining": case "not_ready": case "stopped": return `The service accepts no requests now: it is starting or stopping. ${again}`;
    case "deadline_exceeded": return "The images were not ready in time.";
    case "cancelled": return "The request was cancelled.";
    default: return error.message ? `The service refuses: ${error.message}.` : `The service answers with error ${status}.`;
  }
}

/** What went wrong, for people. */
const wordsFor = (error) => error instanceof ServiceError ? error.message : "The service cannot be reached.";

/** The events of a server-sent stream, without its comments. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text = (text + value).replaceAll("\r\n", "\n");
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.split("\n").filter((line) => line.startsWith(`${name}:`))
        .map((line) => line.slice(name.length + 1).trim()).join("\n");
      if (field("data")) yield { name: field("event"), data: parse(field("data")) };
    }
  }
}
