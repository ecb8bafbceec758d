// What runs on this host, told anew each second by the server.
import {kilobits, showFigures} from '/lib/ui.js';

const element = (id) => document.getElementById(id);
const said = element('said');

/** Seconds that the charts show, and clients that are listed. */
const SHOWN = 300;
const CLIENTS = 100;

/** How often clients are asked for, and how soon a server that was not reached is, in milliseconds. */
const CLIENTS_EVERY = 3000;
const AGAIN_AFTER = 2000;

const percent = (value) => (value === undefined ? null : `${Math.round(value)} %`);
const bytes = (value) => (value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${(value / 2 ** 20).toFixed(1)} MiB`);

function time(ms) {
  const seconds = Math.floor(ms / 1000);
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

const DEFAULT_VHOST = '__defaultVhost__';
const nameOf = ({vhost, app, stream}) => (vhost === DEFAULT_VHOST ? `${app}/${stream}` : `${vhost}/${app}/${stream}`);

/** Where the stream is watched; there its vhost is a parameter of its name. */
function watchOf({vhost, app, stream}) {
  const path = [...app.split('/'), stream].map(encodeURIComponent).join('/');
  const name = vhost === DEFAULT_VHOST ? path : `${path}?vhost=${encodeURIComponent(vhost)}`;
  return `/players/?stream=${encodeURIComponent(name)}&autostart=true`;
}

/** Fills a table's body with rows of texts and elements; rows that stay are kept, with what has the focus. */
function fill(table, rows) {
  const body = element(table).tBodies[0];
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const next = rows.map(({key, cells}) => {
    const row = known.get(key) ?? document.createElement('tr');
    row.dataset.key = key;
    cells.forEach((cell, at) => {
      const place = row.cells[at] ?? row.insertCell();
      if (cell instanceof Node) {
        if (!place.firstElementChild) place.append(cell);
      } else if (place.textContent !== String(cell ?? '')) {
        place.textContent = cell ?? '';
      }
    });
    known.delete(key);
    return row;
  });
  known.forEach((row) => row.remove());
  next.forEach((row, at) => {
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] ?? null);
  });
}

function link(text, address) {
  const anchor = document.createElement('a');
  [anchor.textContent, anchor.href] = [text, address];
  return anchor;
}

/** A series of figures, the newest last, and the chart of it. */
function seriesOf(chart, word) {
  const values = [];
  return (value) => {
    values.push(value);
    if (values.length > SHOWN) values.shift();
    const top = Math.max(1, ...values);
    const points = values.map((v, at) => `${(at + SHOWN - values.length) * 300 / (SHOWN - 1)},${58 - v / top * 55}`);
    element(chart).firstElementChild.setAttribute('d', points.length > 1 ? `M${points.join('L')}` : '');
    element(word).textContent = kilobits(value);
  };
}

const [arrived, left] = [seriesOf('chart-in', 'in'), seriesOf('chart-out', 'out')];

function madeOf({video, audio}) {
  const size = video?.width ? `${video.width} x ${video.height}` : '';
  const picture = video ? [video.codec, video.profile, size].filter(Boolean).join(' ') : '';
  return [picture, audio?.codec].filter(Boolean).join(', ');
}

function show({status, streams}) {
  const {load, workers} = status;
  const words = {ok: 'All is well.', warn: 'Near its limits.', refuse: 'Overloaded: new clients are refused.'};
  const ill = workers.filter((worker) => !['ready', 'draining'].includes(worker.state));
  said.textContent = status.state !== 'ready' ? `The host is ${status.state}.`
    : ill.length ? `${ill.map((w) => `${w.role} ${w.slot} is ${w.state}`).join(', ')}.` : words[load.state];
  showFigures(element('host'), [
    ['Version', status.version],
    ['Runs for', time(status.uptime_ms)],
    ['CPU', percent(load.cpu_percent)],
    ['Memory', percent(load.memory_percent)],
    ['Network', percent(load.nic_percent)],
    ['Holds', load.reasons.length ? load.reasons.map((reason) => reason.criterion).join(', ') : null],
  ]);
  fill('workers', workers.map((worker) => ({key: `${worker.role}.${worker.slot}.${worker.incarnation}`, cells: [
    `${worker.role} ${worker.slot}`, worker.state, percent(worker.cpu_percent), bytes(worker.memory_bytes),
    worker.connections, worker.publishers, worker.players, worker.restarts, time(worker.uptime_ms),
  ]})));
  element('streams-count').textContent = streams.total > streams.streams.length
    ? `${streams.streams.length} of ${streams.total}` : `${streams.total}`;
  fill('streams', streams.streams.map((stream) => ({key: stream.id, cells: [
    nameOf(stream), madeOf(stream), stream.clients, kilobits(stream.received_bps), kilobits(stream.sent_bps),
    time(stream.alive_ms), link('Watch', watchOf(stream)),
  ]})));
  arrived(streams.streams.reduce((sum, stream) => sum + stream.received_bps, 0));
  left(streams.streams.reduce((sum, stream) => sum + stream.sent_bps, 0));
}

function networkOf({rtc}) {
  if (!rtc) return '';
  const trip = rtc.round_trip_ms ? `${Math.round(rtc.round_trip_ms)} ms, ` : '';
  return `${rtc.tcp ? 'TCP, ' : ''}${trip}${(rtc.loss * 100).toFixed(1)} % lost`;
}

function kickButton(client) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Disconnect';
  button.setAttribute('aria-label', `Disconnect ${client.peer || client.id}`);
  button.addEventListener('click', async () => {
    button.disabled = true;
    const answer = await fetch(`/api/v2/clients/${encodeURIComponent(client.id)}`, {method: 'DELETE'}).catch(() => null);
    if (!answer?.ok) [button.disabled, button.textContent] = [false, 'Not done; again'];
    clients();
  });
  return button;
}

/** The first of the clients that are listed. */
let start = 0;

async function clients() {
  const from = start;
  const answer = await fetch(`/api/v2/clients?start=${from}&count=${CLIENTS}`).catch(() => null);
  if (!answer?.ok || from !== start) return;
  const {clients: list, total} = await answer.json();
  if (list.length === 0 && from > 0) return turn(-CLIENTS);
  element('clients-count').textContent = total > list.length ? `${from + 1} to ${from + list.length} of ${total}` : `${total}`;
  element('turn').hidden = total <= CLIENTS;
  element('before').disabled = from === 0;
  element('after').disabled = from + list.length >= total;
  fill('clients', list.map((client) => ({key: client.id, cells: [
    client.peer, client.type, nameOf(client), kilobits(client.received_bps || null), kilobits(client.sent_bps || null), networkOf(client),
    time(client.alive_ms), kickButton(client),
  ]})));
}

function turn(by) {
  start = Math.max(0, start + by);
  clients();
}

// Follows the host. Event streams tell no status: why there is nothing, if so, another question shows.
async function follow() {
  const answer = await fetch('/api/v2/status').catch(() => null);
  if (!answer?.ok) return refused(answer);
  const events = new EventSource('/api/v2/events');
  events.addEventListener('message', ({data}) => show(JSON.parse(data)));
  events.addEventListener('silent', () => { said.textContent = 'The supervisor gives no answer.'; });
  events.addEventListener('error', () => {
    said.textContent = 'The server is not reached; trying on.';
    // After an answer that is no event stream, browsers try no more.
    if (events.readyState === EventSource.CLOSED) setTimeout(follow, AGAIN_AFTER);
  });
  clients();
}

async function refused(answer) {
  const reason = answer?.status < 500 ? await answer.json().then(({error}) => error, () => null) : null;
  said.textContent = reason ? `This page may not ask: ${reason}.` : 'The server is not reached; trying on.';
  if (!reason) setTimeout(follow, AGAIN_AFTER);
}

element('before').addEventListener('click', () => turn(-CLIENTS));
element('after').addEventListener('click', () => turn(CLIENTS));
setInterval(clients, CLIENTS_EVERY);
follow();
