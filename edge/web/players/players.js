// Watches a stream by WebRTC, HTTP-FLV or HLS.
import {addressesOf, asked, showAddresses, showFigures, showState} from '/lib/ui.js';
import * as flv from '/players/flv.js';
import * as hls from '/players/hls.js';
import * as webrtc from '/players/webrtc.js';

const WAYS = {webrtc, flv, hls};
const element = (id) => document.getElementById(id);
const [form, input, by, picture, state, start, stop] =
  ['form', 'stream', 'by', 'picture', 'state', 'start', 'stop'].map(element);
let watching = null;
let timer = 0;

/** The way that an address means by itself. */
function wayOf(name) {
  const [, scheme, path] = name.match(/^(\w+):\/\/([^?#]*)/) ?? [];
  if (/^webrtc$/i.test(scheme)) return 'webrtc';
  if (!/^https?$/i.test(scheme)) return null;
  if (/\.flv$/i.test(path)) return 'flv';
  return /\.m3u8$/i.test(path) ? 'hls' : null;
}

function begin() {
  end();
  const name = input.value.trim();
  by.value = wayOf(name) ?? by.value;
  try {
    watching = WAYS[by.value].watch(name, picture, (now, reason) => showState(state, now, reason, 'Not watching'));
  } catch (error) {
    return showState(state, 'failed', error.message, '');
  }
  [start.disabled, stop.disabled] = [true, false];
  timer = setInterval(() => figures(watching), 1000);
  showAddresses(element('addresses'), addressesOf(name));
}

function end() {
  clearInterval(timer);
  watching?.stop();
  watching = null;
  [start.disabled, stop.disabled] = [false, true];
}

async function figures(of) {
  const rows = await of.figures();
  if (of === watching && rows.length) showFigures(element('figures'), rows);
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  begin();
});
by.addEventListener('change', () => watching && begin());
stop.addEventListener('click', () => {
  end();
  showState(state, 'stopped', '', 'Not watching');
});
if (asked.get('stream')) input.value = asked.get('stream');
if (Object.hasOwn(WAYS, asked.get('by') ?? '')) by.value = asked.get('by');
// A picture that is waited for would keep the page from being called loaded.
if (asked.get('autostart') === 'true') addEventListener('load', () => setTimeout(begin));
