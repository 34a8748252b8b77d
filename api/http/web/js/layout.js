// Where tiles go: rows of pictures that keep their shapes and fill the width, as text is justified.

const WIDEST = 3.6; // beyond this a panorama would take a whole row at the height of a line of text
const NARROWEST = 0.42;
const TEXT_SHAPE = 1.25; // width by height of a card with a text
const UNKNOWN_SHAPE = 1;

/** Width by height of a hit as it is shown. */
export function shapeOf(hit) {
  if (hit.modality === "text") return TEXT_SHAPE;
  if (!hit.width || !hit.height) return UNKNOWN_SHAPE;
  return Math.min(WIDEST, Math.max(NARROWEST, hit.width / hit.height));
}

/** The height of rows that suits a width, in pixels. */
export function rowHeightFor(width) {
  return Math.round(Math.min(250, Math.max(140, 90 + width / 8)));
}

/**
 * Boxes for pictures of these `shapes`, in whole pixels: [{x, y, width, height, row}], and the height of all rows together.
 *
 * `foot` is the room below each picture. The last row keeps the height of rows unless it is nearly full.
 */
export function justify(shapes, { width, gap, foot, rowHeight }) {
  const boxes = [];
  let y = 0;
  let row = 0;
  for (let start = 0; start < shapes.length; row++) {
    const end = endOfRow(shapes, start, { width, gap, rowHeight });
    const sum = total(shapes, start, end);
    const room = width - gap * (end - start - 1);
    const isLast = end === shapes.length;
    const height = isLast && room / sum > rowHeight * 1.3 ? rowHeight : room / sum;
    let used = 0;
    for (let i = start; i < end; i++) {
      const left = Math.round(used * height);
      used += shapes[i];
      const right = Math.round(used * height);
      boxes.push({ x: left + gap * (i - start), y, width: right - left, height: Math.round(height) + foot, row });
    }
    y += Math.round(height) + foot + gap;
    start = end;
  }
  return { boxes, height: Math.max(0, y - gap) };
}

/** The index behind the row's last picture: one more or one less, whichever comes nearer to the wanted height. */
function endOfRow(shapes, start, { width, gap, rowHeight }) {
  let sum = 0;
  for (let i = start; i < shapes.length; i++) {
    const without = (width - gap * (i - start - 1)) / sum;
    sum += shapes[i];
    const withIt = (width - gap * (i - start)) / sum;
    if (withIt > rowHeight) continue;
    if (i === start) return i + 1;
    return rowHeight - withIt < without - rowHeight ? i + 1 : i;
  }
  return shapes.length;
}

function total(values, start, end) {
  let sum = 0;
  for (let i = start; i < end; i++) sum += values[i];
  return sum;
}
