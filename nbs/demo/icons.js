// The pictures: 4,134 icons of game-icons.net (CC BY 3.0), one bit per pixel. The site's build writes
// the file from what the Python package holds: a zlib stream of a length, the names, and the bits.

export const SIZE = 48;
export const D = SIZE * SIZE;

/** `{names, row(k)}`, where a row is -1 and +1 of a picture. */
export async function load() {
  const response = await fetch(new URL("icons.bin", import.meta.url));
  if (!response.ok) throw new Error(`The pictures could not be read (${response.status}).`);
  const stream = response.body.pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const names = new TextDecoder().decode(bytes.subarray(4, 4 + length)).split("\n");
  const packed = bytes.subarray(4 + length);
  const row = (k) => {
    const x = new Int8Array(D);
    for (let i = 0; i < D; i++) x[i] = (packed[(k * D + i) >> 3] >> (7 - (i & 7))) & 1 ? 1 : -1;
    return x;
  };
  return { names, row };
}
