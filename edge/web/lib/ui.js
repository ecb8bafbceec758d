// What several pages show: states, figures, and the addresses of a stream.
import {endpoint} from '/lib/endpoint.js';

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
      // Pages of http have no clipboard: there it is marked, to be copied by hand.
      const copied = await navigator.clipboard?.writeText(address).then(() => true, () => false) ?? false;
      if (!copied) getSelection().selectAllChildren(code);
      button.textContent = copied ? 'Copied' : 'Marked';
      setTimeout(() => { button.textContent = 'Copy'; }, 1500);
    });
    item.append(label, code, button);
    return item;
  }));
}

/**
 * Where a stream is watched besides here. Of its parameters the vhost is part of its name; others, such as a token to publish,
 * are not for everybody.
 *
 * @param {string} name `app/stream`, or SRS's `webrtc://host/app/stream`; of an address of another kind nothing is known
 * @returns {Array<[string, string]>}
 */
export function addressesOf(name) {
  if (/^https?:/i.test(name.trim())) return [];
  const {hostname, searchParams: named} = endpoint(name, 'whep');
  const vhost = named.get('vhost') ? `?vhost=${encodeURIComponent(named.get('vhost'))}` : '';
  const path = [...named.get('app').split('/'), named.get('stream')].map(encodeURIComponent).join('/');
  const here = hostname === location.hostname;
  const whole = `${here ? '' : `webrtc://${hostname}/`}${path}${vhost}`;
  return [
    ['in a browser', `${location.origin}/players/?stream=${encodeURIComponent(whole)}&autostart=true`],
    ['HTTP-FLV', `${here ? mediaOrigin() : `http://${hostname}:8080`}/${path}.flv${vhost}`],
    ['RTMP', `rtmp://${hostname}/${path}${vhost}`],
  ];
}

/**
 * The hosts, other than this page's, that addresses lead to. What others wrote into a link does not go there by itself.
 *
 * @param {URL[]} addresses
 * @returns {string[]}
 */
export function foreign(addresses) {
  return [...new Set(addresses.map(({hostname}) => hostname).filter((hostname) => hostname !== location.hostname))];
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
