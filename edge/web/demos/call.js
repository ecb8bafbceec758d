// Calls of two and of many: everybody in a room publishes and watches the others. App = room, stream = display.
import {endpoint, play, publish, Room} from '/weir.js';
import {asked, foreign, showAddresses, showState} from '/lib/ui.js';

const element = (id) => document.getElementById(id);
const {members, rate, bitrate} = document.body.dataset;

/** How many may be in the room; 0: whatever the server allows. */
const MEMBERS = Number(members);

/** How often it is looked who speaks, in milliseconds, and how loud speech is at least, of 1. */
const LOOK_EVERY = 300;
const SPEECH = 0.02;

/** After a loss the others come back one by one; so long their tiles wait for them, in milliseconds. */
const PATIENCE = 4000;

/** How often the others can make this page begin everything anew, in milliseconds. */
const REFRESH_EVERY = 5000;

/** Lines that are kept of what was said. */
const SAID_MAX = 100;

/** Parameters of the address that are for this page; all others are for the server's API. */
const OURS = ['autostart', 'room', 'display', 'host', 'wss', 'wsh', 'wsp', 'size'];

// What getUserMedia's errors mean to a person.
const REFUSED = {
  NotAllowedError: 'Camera or microphone were refused. Allow them in the address bar and try again.',
  NotReadableError: 'Another program uses the camera or the microphone.',
};

// What a device that is not there means to the others.
const WITHOUT = {
  both: '',
  audio: 'No camera was found: the others only hear you.',
  video: 'No microphone was found: the others only see you.',
  none: 'No camera and no microphone were found: you only watch.',
};

/** The call that goes on. */
let call = null;

// A stream of the room by the name of who publishes it, for weir.js.
function streamOf(room, display) {
  const path = [room, display].map(encodeURIComponent).join('/');
  const rest = new URLSearchParams([...asked].filter(([name]) => !OURS.includes(name))).toString().replaceAll('+', '%20');
  const host = asked.get('host');
  return `${host ? `webrtc://${host}/` : ''}${path}${rest ? `?${rest}` : ''}`;
}

function signaling() {
  const schema = asked.get('wss') ?? (location.protocol === 'https:' ? 'wss' : 'ws');
  const host = asked.get('wsh') ?? location.hostname;
  const port = asked.get('wsp') ?? location.port;
  return `${schema}://${host}${port ? `:${port}` : ''}/sig/v1/rtc`;
}

// The other hosts that this call would go through, by the page's address.
function through() {
  try {
    return foreign([new URL(signaling()), endpoint(streamOf('room', 'display'), 'whip')]);
  } catch {
    // No address at all: beginning tells what is wrong.
    return [];
  }
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
    this.refreshed = -REFRESH_EVERY;
    this.tiles = new Map();
    // First, as it may be impossible; nothing is to be taken back then.
    this.room = new Room(room, display, {
      url: signaling(),
      onState: (state, reason) => this.told(state, reason),
      onParticipants: (all, event) => this.changed(all, event),
      onControl: (what, data, peer) => this.controlled(what, data, peer),
    });
    this.own = new Tile(display, true);
    this.own.video.srcObject = media;
    this.timer = setInterval(() => [this.own, ...this.tiles.values()].forEach((tile) => tile.listen()), LOOK_EVERY);
    for (const track of media.getTracks()) {
      const what = track.kind === 'audio' ? 'microphone' : 'camera';
      track.addEventListener('ended', () => trouble(`The ${what} is gone: the others get nothing of it.`));
    }
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
    if (this.media.getTracks().length === 0) return;
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
      if (performance.now() - this.refreshed >= REFRESH_EVERY) this.refresh();
    }
  }

  // Begins everything anew that carries pictures and sound.
  refresh() {
    this.refreshed = performance.now();
    this.own.session?.stop();
    this.own.session = null;
    this.send();
    for (const tile of this.tiles.values()) if (tile.session) this.watch(tile);
  }

  async share() {
    if (this.screen) return this.unshare();
    const shared = await navigator.mediaDevices.getDisplayMedia({video: {frameRate: Number(rate)}});
    // The call may have ended while the screen was chosen.
    if (call !== this) return shared.getTracks().forEach((track) => track.stop());
    [this.screen] = shared.getVideoTracks();
    // It is ended in the browser's own bar, too.
    this.screen.addEventListener('ended', () => this.unshare());
    element('screen').setAttribute('aria-pressed', 'true');
    if (this.own.session) return this.own.session.replace(this.screen);
    this.media.addTrack(this.screen);
    this.send();
  }

  async unshare() {
    if (!this.screen) return;
    const {screen} = this;
    screen.stop();
    this.screen = null;
    element('screen').setAttribute('aria-pressed', 'false');
    if (this.camera) return this.own.session?.replace(this.camera);
    // Nothing stands in its place.
    this.media.removeTrack(screen);
    if (this.media.getTracks().length) return this.own.session?.renew();
    this.own.session?.stop();
    this.own.session = null;
  }

  // Holds back one's picture or sound. What is shared instead of the camera is not the camera's.
  hold(kind, off) {
    const tracks = kind === 'video' ? [this.camera] : this.media.getAudioTracks();
    tracks.forEach((track) => { if (track) track.enabled = !off; });
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

// Camera and microphone, or what there is of them.
async function capture() {
  if (!navigator.mediaDevices) throw new Error('This browser gives camera and microphone to pages of https or localhost only.');
  const [width, height] = element('size').value.split('x').map(Number);
  const audio = Object.fromEntries(['echoCancellation', 'noiseSuppression', 'autoGainControl']
    .map((name) => [name, element(name).checked]));
  const video = {width, height, frameRate: Number(rate)};
  for (const [found, wanted] of [['both', {audio, video}], ['audio', {audio}], ['video', {video}]]) {
    try {
      return [await navigator.mediaDevices.getUserMedia(wanted), found];
    } catch (error) {
      if (error.name !== 'NotFoundError') throw error;
    }
  }
  return [new MediaStream(), 'none'];
}

async function begin() {
  if (call) return;
  trouble('');
  element('start').disabled = true;
  const [room, display] = [element('room').value.trim(), element('display').value.trim()];
  let media = null;
  try {
    let found;
    [media, found] = await capture();
    call = new Call(room, display, media);
    trouble(WITHOUT[found]);
  } catch (error) {
    media?.getTracks().forEach((track) => track.stop());
    element('start').disabled = false;
    return trouble(REFUSED[error.name] ?? error.message);
  }
  element('form').hidden = true;
  element('call').hidden = false;
  const here = new URLSearchParams(asked);
  ['display', 'size'].forEach((name) => here.delete(name));
  here.set('room', room);
  here.set('autostart', 'true');
  showAddresses(element('addresses'), [[reach(), `${location.origin}${location.pathname}?${here}`]]);
}

// For whom this page's address is one.
function reach() {
  const [own, secure] = [/^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(location.hostname), location.protocol === 'https:'];
  if (!own) return secure ? 'the same page' : 'the same page; browsers give no camera to it, as it is not of https';
  return 'the same page, on this computer only; elsewhere the name of this host stands in it, with https';
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

// Switches what is of a kind; a pressed button is one that holds it back.
function toggle(button, kind) {
  button.addEventListener('click', () => {
    const off = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(off));
    call?.hold(kind, off);
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
if (asked.get('autostart') === 'true') {
  const elsewhere = through();
  if (elsewhere.length) trouble(`This goes through ${elsewhere.join(' and ')}.`);
  else begin();
}
