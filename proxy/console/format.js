// Numbers as operators read them.

/** "0.41 s", "12 s", "3:07 min", "2:10 h". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  if (hours) return `${hours}:${pad(minutes % 60)} h`;
  return `${minutes}:${pad(Math.floor(seconds % 60))} min`;
}

/** "512 B", "12.3 KB", "1.2 GB". */
export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) [count, unit] = [count / 1000, unit + 1];
  return `${unit && count < 99.95 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

/** "12,345" */
export const count = (number) => number.toLocaleString("en");

/** "3 streams", "1 stream" */
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** Events a second. */
export const rate = (number) => (number >= 99.5 ? count(Math.round(number)) : number.toFixed(1));

const pad = (number) => String(number).padStart(2, "0");
