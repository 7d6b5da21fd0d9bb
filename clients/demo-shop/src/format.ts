const formats = new Map<string, Intl.NumberFormat>();

export function formatPrice(amount: string, currency: string): string {
  // A product that is being created has no currency yet.
  if (!currency) return amount;
  let format = formats.get(currency);
  if (!format) formats.set(currency, (format = new Intl.NumberFormat(undefined, { style: 'currency', currency })));
  return format.format(Number(amount));
}

const dates = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' });
const times = new Intl.DateTimeFormat(undefined, { timeStyle: 'short', dateStyle: 'short' });

export const formatDate = (iso: string): string => dates.format(new Date(iso));
export const formatTime = (ms: number): string => times.format(ms);

export const formatCount = (count: number, noun: string): string => `${count} ${noun}${count === 1 ? '' : 's'}`;

/** `Kitchen > Mugs` is `Mugs`. */
export function getLastName(path: string): string {
  return path.split('>').at(-1)?.trim() ?? path;
}
