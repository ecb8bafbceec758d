// What several pages show: states, figures, and the addresses of a stream.

/** @typedef {import('/weir.js').State} State */

const WORDS = {connecting: 'Connecting', live: 'Live', reconnecting: 'Reconnecting', failed: 'Failed'};

/**
 * Shows a session's state in words.
 *
 * @param {HTMLElement} element
 * @param {State} state
 * @param {string} reason
 * @param {string} idle what it says when nothing goes on
 */
export function showState(element, state, reason, idle) {
  element.dataset.state = state;
  const word = WORDS[state] ?? idle;
  element.textContent = reason ? `${word}: ${reason}` : word;
}

/**
 * Fills a list of figures; those without a value are left out.
 *
 * @param {HTMLElement} list a dl
 * @param {Array<[string, string | null]>} rows
 */
export function showFigures(list, rows) {
  list.replaceChildren(...rows.filter(([, value]) => value !== null).map(([name, value]) => {
    const [box, term, detail] = ['div', 'dt', 'dd'].map((tag) => document.createElement(tag));
    term.textContent = name;
    detail.textContent = value;
    box.append(term, detail);
    return box;
  }));
}

/**
 * Lists addresses, each with a button that copies it.
 *
 * @param {HTMLElement} list
 * @param {Array<[string, string]>} rows what an address is for, and the address
 */
export function showAddresses(list, rows) {
  list.replaceChildren(...rows.map(([name, address]) => {
    const [item, label, code, button] = ['li', 'span', 'code', 'button'].map((tag) => document.createElement(tag));
    label.textContent = name;
    code.textContent = address;
    button.type = 'button';
    button.textContent = 'Copy';
    button.setAttribute('aria-label', `Copy the address for ${name}`);
    button.addEventListener('click', async () => {
      await navigator.clipboard?.writeText(address).catch(() => {});
      button.textContent = 'Copied';
      setTimeout(() => { button.textContent = 'Copy'; }, 1500);
    });
    item.append(label, code, button);
    return item;
  }));
}

/**
 * Where a stream is watched besides here.
 *
 * @param {string} name `app/stream`
 * @returns {Array<[string, string]>}
 */
export function addressesOf(name) {
  const [host, path] = [location.hostname, name.split('?')[0].split('/').map(encodeURIComponent).join('/')];
  return [
    ['in a browser', `${location.origin}/players/?stream=${encodeURIComponent(name)}&autostart=true`],
    ['HTTP-FLV', `${mediaOrigin()}/${path}.flv`],
    ['RTMP', `rtmp://${host}/${path}`],
  ];
}

/** Where HTTP-FLV is played: at this port, unless this is the API's. */
export function mediaOrigin() {
  return location.port === '1985' ? `${location.protocol}//${location.hostname}:8080` : location.origin;
}

/** The parameters of the page's address. */
export const asked = new URLSearchParams(location.search);

/**
 * Bits a second of a growing count of bytes, between calls.
 *
 * @returns {(bytes: number, at: number) => number | null} `at` in milliseconds
 */
export function meterOf() {
  let before = null;
  return (bytes, at) => {
    const rate = before && at > before.at ? (bytes - before.bytes) * 8000 / (at - before.at) : null;
    before = {bytes, at};
    return rate !== null && rate >= 0 ? rate : null;
  };
}

/** @param {number | null | undefined} bits a second */
export function kilobits(bits) {
  return bits === null || bits === undefined ? null : `${Math.round(bits / 1000)} kbit/s`;
}

/** @param {number | null | undefined} seconds */
export function millis(seconds) {
  return seconds === null || seconds === undefined ? null : `${Math.round(seconds * 1000)} ms`;
}
