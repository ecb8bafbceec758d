// Where streams are, what goes wrong with them in words, and when to try again; for /weir.js and the pages.

/** Waits before the first and every further attempt to begin anew, in milliseconds; the last one repeats. */
const PAUSES = [200, 800, 1500, 3000, 5000];

/**
 * How long to wait before beginning anew. Many are lost at the same moment, when their server goes; chance keeps them from
 * coming back at the same moment too.
 *
 * @param {number} attempt how many were made already
 * @returns {number} in milliseconds
 */
export function pauseBefore(attempt) {
  return PAUSES[Math.min(attempt, PAUSES.length - 1)] * (0.75 + Math.random() / 2);
}

/**
 * Where a stream is published and played. Takes `app/stream`, SRS's `webrtc://host[:port]/app/stream?query`, and the
 * address of WHIP or WHEP itself; without a host it is that of this page.
 *
 * @param {string} text what a person wrote
 * @param {'whip' | 'whep'} kind
 * @returns {URL}
 */
export function endpoint(text, kind) {
  const trimmed = text.trim();
  if (/^https?:/i.test(trimmed)) return new URL(trimmed);
  const named = trimmed.match(/^webrtc:\/\/([^/?]+)(\/[^?]*)(\?.*)?$/i);
  const [authority, path, query] = named ? [named[1], named[2], named[3] ?? ''] : [null, ...split(trimmed)];
  const parts = path.split('/').filter(Boolean).map(decoded);
  const stream = parts.pop();
  if (!stream) throw new Failed('Name a stream, such as live/river.', true);
  const origin = authority ? `${location.protocol}//${authority}` : location.origin;
  // The server takes a plus for a plus and %20 for a space, other than forms do.
  const url = new URL(`/rtc/v1/${kind}/${query.replaceAll('+', '%2B')}`, origin);
  // SRS's API has a port of its own; a webrtc: URL without one means that.
  const schema = url.searchParams.get('schema');
  if (authority && (schema === 'http' || schema === 'https')) url.protocol = `${schema}:`;
  if (authority && !/:\d+$/.test(authority)) url.port = url.searchParams.get('api') ?? (url.protocol === 'http:' ? '1985' : '');
  url.searchParams.set('app', parts.join('/') || 'live');
  url.searchParams.set('stream', stream);
  url.search = url.search.replaceAll('+', '%20');
  return url;
}

function split(text) {
  const at = text.indexOf('?');
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at)];
}

/**
 * A part of a path without its escapes; one that has none, or wrong ones, stays as it is.
 *
 * @param {string} part
 * @returns {string}
 */
export function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** What went wrong, in words for a person. `final`: trying again does not help. */
export class Failed extends Error {
  /**
   * @param {string} message
   * @param {boolean} final
   */
  constructor(message, final = false) {
    super(message);
    this.name = 'Failed';
    this.final = final;
  }
}
