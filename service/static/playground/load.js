"use strict";
// What else the service draws meanwhile: who shares the network's calls, and who waits.

const QUEUE_MS = 1000;
let watching = null;

/** Show the service's queue until `stopWatching`. */
function watchQueue() {
  showQueue();
  watching = setInterval(showQueue, QUEUE_MS);
}

function stopWatching() {
  clearInterval(watching);
  watching = null;
  $("call").textContent = $("queue").textContent = "";
}

/** Show with whom a step has shared a call of the network. */
function showCall({ call_images: images, call_requests: requests }) {
  $("call").textContent = `One call of the network: ${counted(images, "image")} of ${counted(requests, "request")}.`;
}

async function showQueue() {
  const response = await fetch("v1/queue", { headers: headers() }).catch(() => null);
  const queue = response?.ok ? await response.json() : null;
  if (queue && watching) $("queue").textContent = `The service draws ${counted(queue.active_units, "image")}; ${queue.waiting_units} wait.`;
}

const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
