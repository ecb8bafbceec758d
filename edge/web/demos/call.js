// Calls of two and of many: everybody in a room publishes and watches the others. App = room, stream = display.
import {play, publish, Room} from '/weir.js';
import {asked, showAddresses, showState} from '/lib/ui.js';

const element = (id) => document.getElementById(id);
const {members, rate, bitrate} = document.body.dataset;

/** How many may be in the room; 0: whatever the server allows. */
const MEMBERS = Number(members);

/** How often it is looked who speaks, in milliseconds, and how loud speech is at least, of 1. */
const LOOK_EVERY = 300;
const SPEECH = 0.02;

/** After a loss the others come back one by one; so long their tiles wait for them, in milliseconds. */
const PATIENCE = 4000;

/** Lines that are kept of what was said. */
const SAID_MAX = 100;

/** Parameters of the address that are for this page; all others are for the server's API. */
const OURS = ['autostart', 'room', 'display', 'host', 'wss', 'wsh', 'wsp', 'size'];

// What getUserMedia's errors mean to a person.
const REFUSED = {
  NotAllowedError: 'Camera or microphone were refused. Allow them in the address bar and try again.',
  NotFoundError: 'There is no camera or no microphone.',
  NotReadableError: 'Another program uses the camera or the microphone.',
};

/** The call that goes on. */
let call = null;

// A stream of the room by the name of who publishes it, for weir.js.
function streamOf(room, display) {
  const path = [room, display].map(encodeURIComponent).join('/');
  const rest = new URLSearchParams([...asked].filter(([name]) => !OURS.includes(name))).toString();
  const host = asked.get('host');
  return `${host ? `webrtc://${host}/` : ''}${path}${rest ? `?${rest}` : ''}`;
}

function signaling() {
  const schema = asked.get('wss') ?? (location.protocol === 'https:' ? 'wss' : 'ws');
  const host = asked.get('wsh') ?? location.hostname;
  const port = asked.get('wsp') ?? location.port;
  return `${schema}://${host}${port ? `:${port}` : ''}/sig/v1/rtc`;
}

/** What is shown of one who is in the room. */
class Tile {
  constructor(display, own) {
    this.display = display;
    this.session = null;
    this.late = 0;
    this.element = element('tile').content.firstElementChild.cloneNode(true);
    this.element.dataset.display = display;
    [this.video, this.name, this.state, this.meter, this.sound] =
      ['video', '.name', '.state', 'meter', '.sound'].map((what) => this.element.querySelector(what));
    this.name.textContent = own ? `${display} (you)` : display;
    this.video.setAttribute('aria-label', own ? 'You' : display);
    this.video.muted = own;
    this.state.textContent = own ? '' : 'Not sending yet';
    this.sound.addEventListener('click', () => {
      this.video.muted = false;
      this.sound.hidden = true;
    });
    element('tiles').append(this.element);
  }

  shows(session) {
    this.session = session;
    this.video.srcObject = session.stream;
    // Without a click browsers may allow pictures only.
    this.video.play().catch((error) => {
      if (error.name !== 'NotAllowedError') return;
      this.video.muted = true;
      this.sound.hidden = false;
      this.video.play().catch(() => {});
    });
  }

  told(state, reason) {
    if (state === 'live') this.state.textContent = '';
    else showState(this.state, state, reason, '');
  }

  async listen() {
    const level = await this.session?.level().catch(() => 0) ?? 0;
    this.meter.value = Math.min(1, level);
    this.element.toggleAttribute('data-speaking', level >= SPEECH);
  }

  remove() {
    clearTimeout(this.late);
    this.session?.stop();
    this.video.srcObject = null;
    this.element.remove();
  }
}

/** A call, from the first click to hanging up. */
class Call {
  constructor(room, display, media) {
    this.display = display;
    this.roomName = room;
    this.media = media;
    this.camera = media.getVideoTracks()[0] ?? null;
    this.screen = null;
    this.tiles = new Map();
    this.own = new Tile(display, true);
    this.own.video.srcObject = media;
    this.timer = setInterval(() => [this.own, ...this.tiles.values()].forEach((tile) => tile.listen()), LOOK_EVERY);
    this.room = new Room(room, display, {
      url: signaling(),
      onState: (state, reason) => this.told(state, reason),
      onParticipants: (all, event) => this.changed(all, event),
      onControl: (what, data, peer) => this.controlled(what, data, peer),
    });
  }

  told(state, reason) {
    showState(element('state'), state, reason, 'Not in a room');
    if (state === 'live') element('state').textContent = `In ${this.roomName}`;
    if (state === 'failed') end(reason);
  }

  changed(all, event) {
    if (event === 'joined') {
      if (MEMBERS && all.length > MEMBERS) return end('The room is full.');
      this.send();
    }
    const others = all.filter(({display}) => display !== this.display);
    // Who came when it was full leaves at once.
    const shown = MEMBERS ? others.slice(0, MEMBERS - 1) : others;
    for (const tile of [...this.tiles.values()]) {
      if (shown.some(({display}) => display === tile.display)) {
        clearTimeout(tile.late);
        tile.late = 0;
      } else if (event !== 'joined' && !tile.late) {
        this.remove(tile);
      } else if (!tile.late) {
        tile.late = setTimeout(() => this.remove(tile), PATIENCE);
      }
    }
    for (const {display, publishing} of shown) {
      if (!this.tiles.has(display)) this.tiles.set(display, new Tile(display, false));
      if (publishing && !this.tiles.get(display).session) this.watch(this.tiles.get(display));
    }
  }

  remove(tile) {
    tile.remove();
    this.tiles.delete(tile.display);
  }

  watch(tile) {
    tile.session?.stop();
    tile.shows(play(streamOf(this.roomName, tile.display), {onState: (state, reason) => tile.told(state, reason)}));
  }

  // Publishes, and tells the others so as soon as there is something to see.
  send() {
    if (this.own.session) {
      if (this.own.session.state === 'live') this.announce();
      return;
    }
    this.own.session = publish(streamOf(this.roomName, this.display), this.media, {
      codec: 'H264',
      bitrate: Number(bitrate) * 1000,
      onState: (state, reason) => {
        this.own.told(state, reason);
        if (state === 'live') this.announce();
      },
    });
  }

  announce() {
    // Lost: it is said again after the next join.
    this.room.publish().catch(() => {});
  }

  controlled(what, data, peer) {
    if (what === 'alert') say(peer.display, data);
    if (what === 'refresh') {
      say(peer.display, 'asked everybody to refresh');
      this.refresh();
    }
  }

  // Begins everything anew that carries pictures and sound.
  refresh() {
    this.own.session?.stop();
    this.own.session = null;
    this.send();
    for (const tile of this.tiles.values()) if (tile.session) this.watch(tile);
  }

  async share() {
    if (this.screen) return this.unshare();
    const shared = await navigator.mediaDevices.getDisplayMedia({video: {frameRate: Number(rate)}});
    [this.screen] = shared.getVideoTracks();
    // It is ended in the browser's own bar, too.
    this.screen.addEventListener('ended', () => this.unshare());
    await this.own.session?.replace(this.screen);
    element('screen').setAttribute('aria-pressed', 'true');
  }

  async unshare() {
    this.screen?.stop();
    this.screen = null;
    element('screen').setAttribute('aria-pressed', 'false');
    if (this.camera) await this.own.session?.replace(this.camera);
  }

  hangUp() {
    clearInterval(this.timer);
    this.room.leave();
    [this.own, ...this.tiles.values()].forEach((tile) => tile.remove());
    [...this.media.getTracks(), this.camera, this.screen].forEach((track) => track?.stop());
  }
}

function say(who, what) {
  const [item, name, text] = ['li', 'b', 'span'].map((tag) => document.createElement(tag));
  name.textContent = who;
  text.textContent = what;
  item.append(name, text);
  element('said').prepend(item);
  while (element('said').childElementCount > SAID_MAX) element('said').lastElementChild.remove();
}

function trouble(text) {
  element('trouble').textContent = text;
  element('trouble').hidden = !text;
}

async function begin() {
  if (call) return;
  trouble('');
  element('start').disabled = true;
  const [room, display] = [element('room').value.trim(), element('display').value.trim()];
  try {
    if (!navigator.mediaDevices) throw new Error('This browser gives camera and microphone to pages of https or localhost only.');
    const [width, height] = element('size').value.split('x').map(Number);
    const audio = Object.fromEntries(['echoCancellation', 'noiseSuppression', 'autoGainControl']
      .map((name) => [name, element(name).checked]));
    const media = await navigator.mediaDevices.getUserMedia({audio, video: {width, height, frameRate: Number(rate)}});
    call = new Call(room, display, media);
  } catch (error) {
    element('start').disabled = false;
    return trouble(REFUSED[error.name] ?? error.message);
  }
  element('form').hidden = true;
  element('call').hidden = false;
  const here = new URLSearchParams(asked);
  ['display', 'size'].forEach((name) => here.delete(name));
  here.set('room', room);
  here.set('autostart', 'true');
  showAddresses(element('addresses'), [['the same page', `${location.origin}${location.pathname}?${here}`]]);
}

function end(reason) {
  call?.hangUp();
  call = null;
  for (const id of ['mute', 'camera', 'screen']) element(id).setAttribute('aria-pressed', 'false');
  showState(element('state'), 'stopped', '', 'Not in a room');
  element('call').hidden = true;
  element('form').hidden = false;
  element('start').disabled = false;
  trouble(reason);
}

// Switches the tracks of a kind; a pressed button is one that holds them back.
function toggle(button, kind) {
  button.addEventListener('click', () => {
    const off = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(off));
    call?.media.getTracks().filter((track) => track.kind === kind).forEach((track) => { track.enabled = !off; });
  });
}

element('form').addEventListener('submit', (event) => {
  event.preventDefault();
  begin();
});
element('alert').addEventListener('submit', (event) => {
  event.preventDefault();
  const words = element('words').value.trim();
  if (!words || !call) return;
  call.room.control('alert', words).then(() => {
    say('You', words);
    element('words').value = '';
  }, (error) => say('Not sent', error.message));
});
toggle(element('mute'), 'audio');
toggle(element('camera'), 'video');
element('screen').hidden = !navigator.mediaDevices?.getDisplayMedia;
element('screen').addEventListener('click', () => call?.share().catch(() => {}));
element('refresh').addEventListener('click', () => {
  call?.room.control('refresh').catch(() => {});
  call?.refresh();
});
element('hangup').addEventListener('click', () => end(''));

element('room').value = asked.get('room') ?? 'live';
element('display').value = asked.get('display') ?? [...crypto.getRandomValues(new Uint8Array(4))]
  .map((byte) => byte.toString(16).padStart(2, '0')).join('').slice(0, 7);
if ([...element('size').options].some(({value}) => value === asked.get('size'))) element('size').value = asked.get('size');
if (asked.get('autostart') === 'true') begin();
