// Publishes camera, screen and microphone by WHIP.
import {endpoint, publish} from '/weir.js';
import {addressesOf, asked, foreign, kilobits, meterOf, millis, showAddresses, showFigures, showState} from '/lib/ui.js';

const element = (id) => document.getElementById(id);
const [form, input, picture, state, start, stop] =
  ['form', 'stream', 'picture', 'state', 'start', 'stop'].map(element);
let session = null;
let media = null;
let sound = null;
let timer = 0;

// What getUserMedia's errors mean to a person.
const REFUSED = {
  NotAllowedError: 'Camera or microphone were refused. Allow them in the address bar and try again.',
  NotFoundError: 'There is no such camera or microphone.',
  NotReadableError: 'Another program uses the camera or the microphone.',
  OverconstrainedError: 'The camera has no such size.',
};

// What is asked of the devices that are chosen.
function wanted() {
  const [camera, microphone] = [element('camera').value, element('microphone').value];
  const [width, height] = element('size').value.split('x').map(Number);
  const frameRate = Number(element('rate').value);
  const improved = Object.fromEntries(['echoCancellation', 'noiseSuppression', 'autoGainControl']
    .map((name) => [name, element(name).checked]));
  return {
    screen: camera === 'screen' && {video: {frameRate}, audio: microphone === 'none'},
    video: !['none', 'screen'].includes(camera) && {width, height, frameRate, ...(camera && {deviceId: {exact: camera}})},
    audio: microphone !== 'none' && {...improved, ...(microphone && {deviceId: {exact: microphone}})},
  };
}

async function capture() {
  if (!navigator.mediaDevices) throw new Error('This browser gives camera and microphone to pages of https or localhost only.');
  const {screen, video, audio} = wanted();
  if (!screen && !audio && !video) throw new Error('Choose a picture or a sound.');
  if (!screen) return navigator.mediaDevices.getUserMedia({audio, video});
  const shared = await navigator.mediaDevices.getDisplayMedia(screen);
  try {
    if (audio) (await navigator.mediaDevices.getUserMedia({audio})).getTracks().forEach((track) => shared.addTrack(track));
  } catch (error) {
    shared.getTracks().forEach((track) => track.stop());
    throw error;
  }
  return shared;
}

// The track that another choice means; null for none.
async function chosen(kind) {
  const {screen, video, audio} = wanted();
  if (kind === 'video' && screen) return (await navigator.mediaDevices.getDisplayMedia({...screen, audio: false})).getTracks()[0];
  const wish = kind === 'video' ? video : audio;
  return wish ? (await navigator.mediaDevices.getUserMedia({[kind]: wish})).getTracks()[0] : null;
}

// Sends what is chosen now, in the place of what was sent so far.
async function change(kind) {
  const of = session;
  if (!of) return;
  try {
    const track = await chosen(kind);
    if (of !== session) return track?.stop();
    const before = media.getTracks().filter((old) => old.kind === kind);
    if (track) {
      heed(track);
      await of.replace(track);
    } else {
      before.forEach((old) => media.removeTrack(old));
      if (media.getTracks().length === 0) return finish();
      of.renew();
    }
    before.forEach((old) => old.stop());
    if (kind === 'audio') listen();
  } catch (error) {
    if (of === session) showState(state, of.state, REFUSED[error.name] ?? error.message, '');
  }
}

// A screen is taken back in the browser's own bar, and a device is unplugged.
function heed(track) {
  track.addEventListener('ended', () => {
    const others = media?.getTracks().filter((other) => other !== track && other.readyState === 'live') ?? [];
    if (!media?.getTracks().includes(track)) return;
    if (others.length === 0 || element('camera').value === 'screen' && track.kind === 'video') return finish();
    const what = track.kind === 'audio' ? 'microphone' : 'camera';
    showState(state, session.state, `The ${what} is gone; choose another one.`, '');
  });
}

async function begin() {
  end();
  start.disabled = true;
  showState(state, 'connecting', '', '');
  try {
    media = await capture();
    const options = {
      codec: element('codec').value,
      bitrate: Number(element('bitrate').value) * 1000,
      onState: (now, reason) => showState(state, now, reason, 'Not publishing'),
    };
    session = publish(input.value, media, options);
  } catch (error) {
    end();
    return showState(state, 'failed', REFUSED[error.name] ?? error.message, '');
  }
  picture.srcObject = media;
  stop.disabled = false;
  media.getTracks().forEach(heed);
  listen();
  const meter = meterOf();
  timer = setInterval(() => figures(session, meter), 1000);
  showAddresses(element('addresses'), addressesOf(input.value));
  devices();
}

function end() {
  clearInterval(timer);
  session?.stop();
  media?.getTracks().forEach((track) => track.stop());
  sound?.close();
  [session, media, sound] = [null, null, null];
  picture.srcObject = null;
  element('level').value = 0;
  [start.disabled, stop.disabled] = [false, true];
}

function finish() {
  end();
  showState(state, 'stopped', '', 'Not publishing');
}

function listen() {
  sound?.close();
  sound = levelOf(media);
  element('level').value = 0;
}

// Shows how loud it is, so that one sees that the microphone works.
function levelOf(stream) {
  if (stream.getAudioTracks().length === 0) return null;
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const look = () => {
    if (context.state === 'closed') return;
    analyser.getFloatTimeDomainData(samples);
    const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
    element('level').value = Math.min(1, Math.sqrt(power) * 3);
    requestAnimationFrame(look);
  };
  look();
  return context;
}

async function figures(of, meter) {
  const stats = await of.stats();
  if (!stats || of !== session) return;
  const all = [...stats.values()];
  const sent = all.filter((s) => s.type === 'outbound-rtp');
  const heard = all.filter((s) => s.type === 'remote-inbound-rtp');
  const video = sent.find((s) => s.kind === 'video');
  const sum = (rows, field) => rows.reduce((total, row) => total + (row[field] ?? 0), 0);
  const worst = (rows, field) => (rows.length ? Math.max(...rows.map((row) => row[field] ?? 0)) : null);
  const limit = video?.qualityLimitationReason;
  const loss = worst(heard, 'fractionLost');
  showFigures(element('figures'), [
    ['Size', video?.frameWidth ? `${video.frameWidth} x ${video.frameHeight}` : null],
    ['Pictures a second', video?.framesPerSecond ? String(Math.round(video.framesPerSecond)) : null],
    ['Bit rate', kilobits(meter(sum(sent, 'bytesSent'), performance.now()))],
    ['Codecs', sent.map((s) => stats.get(s.codecId)?.mimeType.split('/')[1]).filter(Boolean).join(', ') || null],
    ['Round trip', millis(worst(heard, 'roundTripTime'))],
    ['Lost on the way', loss === null ? null : `${(loss * 100).toFixed(1)} %`],
    ['Asked for again', String(sum(sent, 'nackCount'))],
    ['Limited by', limit && limit !== 'none' ? {cpu: 'this computer', bandwidth: 'the network'}[limit] ?? limit : null],
  ]);
}

// Browsers tell the names of devices only once one may be used.
async function devices() {
  const known = await navigator.mediaDevices?.enumerateDevices().catch(() => []) ?? [];
  for (const [id, kind] of [['camera', 'videoinput'], ['microphone', 'audioinput']]) {
    const list = element(id);
    list.querySelectorAll('option[data-device]').forEach((option) => option.value !== list.value && option.remove());
    for (const device of known.filter((device) => device.kind === kind && device.label)) {
      if ([...list.options].some((option) => option.value === device.deviceId)) continue;
      const option = new Option(device.label, device.deviceId);
      option.dataset.device = '';
      list.add(option);
    }
  }
}

// The other hosts that this would go through, by the page's address.
function through() {
  try {
    return foreign([endpoint(input.value, 'whip')]);
  } catch {
    // No address at all: beginning tells what is wrong.
    return [];
  }
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  begin();
});
stop.addEventListener('click', finish);
element('camera').addEventListener('change', () => change('video'));
['microphone', 'echoCancellation', 'noiseSuppression', 'autoGainControl']
  .forEach((id) => element(id).addEventListener('change', () => change('audio')));
navigator.mediaDevices?.addEventListener('devicechange', devices);
devices();
if (asked.get('stream')) input.value = asked.get('stream');
if (asked.get('autostart') === 'true') {
  const elsewhere = through();
  if (elsewhere.length) showState(state, 'stopped', `this goes through ${elsewhere.join(' and ')}`, 'Not publishing');
  else begin();
}
