// Rings that one draws. Their corners lie from -180 to 180 degrees, as a link has them, and each edge goes the short way.

// The same corners, each counted on from the one before: beyond 180 degrees where the ring goes over the antimeridian.
// One that goes round the globe so stays as it is.
export function unrolled(ring) {
  const done = [];
  for (const [lon, lat] of ring) done.push([lon + 360 * Math.round(((done.at(-1)?.[0] ?? lon) - lon) / 360), lat]);
  return done.length && Math.abs(done.at(-1)[0] - done[0][0]) > 180 ? ring : done;
}

export const polygon = (ring) => ({ type: "Polygon", coordinates: [[...ring, ring[0]]] });

// What of a ring lies on one side of a meridian: 1 its east, -1 its west.
function beside(ring, meridian, side) {
  return ring.flatMap((to, n) => {
    const from = ring.at(n - 1);
    const [a, b] = [from, to].map(([lon]) => side * (lon - meridian));
    const crossing = a * b < 0 ? [[meridian, Number((from[1] + ((to[1] - from[1]) * a) / (a - b)).toFixed(6))]] : [];
    return b < 0 ? crossing : [...crossing, to];
  });
}

// The ring as GeoJSON wants it (RFC 7946, 3.1.9): cut where it goes over the antimeridian.
export function geometry(ring) {
  const whole = unrolled(ring);
  const parts = [0, 360, -360]
    .map((turn) => beside(beside(whole, turn - 180, 1), turn + 180, -1).map(([lon, lat]) => [Number((lon - turn).toFixed(6)), lat]))
    .filter((part) => part.some(([lon]) => Math.abs(lon) < 180)); // else it only touches
  return parts.length > 1 ? { type: "MultiPolygon", coordinates: parts.map((part) => polygon(part).coordinates) } : polygon(parts[0]);
}
