/**
 * The places of a text, ordered by what follows from each: O(W log W) time whatever repeats itself,
 * by doubling how much is compared (Manber and Myers 1993). Negative values must each stand once.
 */
export function sortSuffixes(text: Int32Array): Int32Array {
  const count = text.length
  let order = orderByFirst(text)
  let { ranks, rankCount } = rankPlaces(order, (a, b) => text[a] === text[b])
  const bySecond = new Int32Array(count)
  for (let width = 1; rankCount < count; width *= 2) {
    let filled = 0
    for (let place = Math.max(0, count - width); place < count; place += 1) {
      bySecond[filled++] = place
    }
    for (const place of order) if (place >= width) bySecond[filled++] = place - width
    order = countingSort(bySecond, ranks, rankCount)
    const known = ranks
    const rankAt = (place: number) => (place < count ? known[place] : -1)
    ;({ ranks, rankCount } = rankPlaces(
      order,
      (a, b) => known[a] === known[b] && rankAt(a + width) === rankAt(b + width),
    ))
  }
  return order
}

/** By one value. */
function orderByFirst(text: Int32Array): Int32Array {
  const negatives = Int32Array.from(text.keys())
    .filter((place) => (text[place] ?? 0) < 0)
    .sort((a, b) => (text[a] ?? 0) - (text[b] ?? 0))
  const words = Int32Array.from(text.keys()).filter((place) => (text[place] ?? 0) >= 0)
  const wordCount = text.reduce((most, word) => Math.max(most, word + 1), 0)
  const order = new Int32Array(text.length)
  order.set(negatives)
  order.set(countingSort(words, text, wordCount), negatives.length)
  return order
}

/** Stable. `keys[place]` is at least 0 and below `keyCount`. */
function countingSort(places: Int32Array, keys: Int32Array, keyCount: number): Int32Array {
  const starts = new Int32Array(keyCount + 1)
  for (const place of places) {
    const next = (keys[place] ?? 0) + 1
    starts[next] = (starts[next] ?? 0) + 1
  }
  for (let key = 1; key <= keyCount; key += 1) {
    starts[key] = (starts[key] ?? 0) + (starts[key - 1] ?? 0)
  }
  const sorted = new Int32Array(places.length)
  for (const place of places) {
    const key = keys[place] ?? 0
    const at = starts[key] ?? 0
    sorted[at] = place
    starts[key] = at + 1
  }
  return sorted
}

/** The rank of each place: equal for those that are equal so far. */
function rankPlaces(
  order: Int32Array,
  areEqual: (a: number, b: number) => boolean,
): { readonly ranks: Int32Array; readonly rankCount: number } {
  const ranks = new Int32Array(order.length)
  let rankCount = 0
  let previous = -1
  for (const place of order) {
    if (previous < 0 || !areEqual(previous, place)) rankCount += 1
    ranks[place] = rankCount - 1
    previous = place
  }
  return { ranks, rankCount }
}
