"use strict";
// PNG files: their text chunks, their pixels, and base64.

const PNG_SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/** The text chunks of a PNG by keyword; null if the bytes are no PNG. */
function textChunks(bytes) {
  if (PNG_SIGNATURE.some((value, place) => bytes[place] !== value)) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), found = {}, latin1 = new TextDecoder("latin1");
  // A chunk is a length, a type, so many bytes and a checksum.
  for (let place = PNG_SIGNATURE.length; place + 12 <= bytes.length;) {
    const length = view.getUint32(place), type = latin1.decode(bytes.subarray(place + 4, place + 8));
    if (type === "tEXt") {
      const [keyword, ...text] = latin1.decode(bytes.subarray(place + 8, place + 8 + length)).split("\0");
      found[keyword] = text.join("\0");
    }
    place += 12 + length;
  }
  return found;
}

/** The pixels of an image that has loaded. */
function pixelsOf(image) {
  const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** How many pixels of two images differ; null if their sizes do. */
function differentPixels(one, other) {
  const [a, b] = [pixelsOf(one), pixelsOf(other)];
  if (a.width !== b.width || a.height !== b.height) return null;
  let count = 0;
  for (let place = 0; place < a.data.length; place += 4) {
    if ([0, 1, 2, 3].some((channel) => a.data[place + channel] !== b.data[place + channel])) count += 1;
  }
  return count;
}

const dataUrl = (base64) => `data:image/png;base64,${base64}`;
const bytesOf = (base64) => Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
