// What the pages of weir do when something is wrong, in Chromium: `node troubles.mjs ORIGIN DIR` gives them wrong names, links
// to other hosts, devices that are not there, networks that go and servers that say nothing, and prints a JSON object of what
// they did. After the line `{"killing":true}` the worker that sends and receives is to be killed. Screenshots go to DIR.
//
// Environment: PLAYWRIGHT, the directory that `playwright-core` is installed in; CHROMIUM, the executable.
import {createRequire} from 'node:module';
import {join} from 'node:path';

const {chromium} = createRequire(join(process.env.PLAYWRIGHT, '/'))('playwright-core');
const [origin, dir] = process.argv.slice(2);
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', '--autoplay-policy=no-user-gesture-required',
  '--allow-loopback-in-peer-connection', '--disable-background-timer-throttling', '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
];
const SIZES = {desk: {width: 1100, height: 900}, phone: {width: 320, height: 700}};
const errors = [];

/** A page with its own browser's data; `before` runs in it before its own scripts. */
async function open(browser, path, before = () => {}) {
  const page = await browser.newPage({viewport: SIZES.desk});
  page.setDefaultTimeout(30_000);
  page.on('pageerror', (error) => errors.push(`${path}: ${error.message}`));
  await page.addInitScript(before);
  // A picture that waits for its stream holds up the event `load`.
  await page.goto(origin + path, {waitUntil: 'domcontentloaded'});
  return page;
}

const text = (page, id) => page.locator(`#${id}`).innerText();
const state = (page, wanted) => page.waitForFunction((wanted) =>
  document.getElementById('state').dataset.state === wanted, wanted);
const says = (page, id, words) => page.waitForFunction(({id, words}) =>
  document.getElementById(id).textContent.includes(words), {id, words});

// How long something takes, in milliseconds.
async function took(what) {
  const from = Date.now();
  await what;
  return Date.now() - from;
}

async function pictures(page, name) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({colorScheme});
      await page.setViewportSize(viewport);
      await page.screenshot({path: join(dir, `${name}-${size}-${colorScheme}.png`), fullPage: true});
    }
  }
  await page.setViewportSize(SIZES.desk);
}

// Notes whether a camera was asked for, and what of it goes on.
const watchDevices = () => {
  window.tracks = [];
  for (const way of ['getUserMedia', 'getDisplayMedia']) {
    const real = navigator.mediaDevices[way].bind(navigator.mediaDevices);
    navigator.mediaDevices[way] = async (wish) => {
      const media = await real(wish);
      window.tracks.push(...media.getTracks());
      return media;
    };
  }
};
const alive = (page) => page.evaluate(() => window.tracks.filter(({readyState}) => readyState === 'live').length);

// There is no screen here: a canvas stands for it, once the page is told so.
const fakeScreen = () => {
  window.shared = [];
  navigator.mediaDevices.getDisplayMedia = async () => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 400, height: 300});
    const paint = canvas.getContext('2d');
    setInterval(() => {
      paint.fillStyle = `hsl(${performance.now() / 20} 80% 50%)`;
      paint.fillRect(0, 0, 400, 300);
    }, 50);
    const media = canvas.captureStream(10);
    window.shared.push(...media.getTracks());
    await window.picked;
    return media;
  };
};

/** What texts mean. */
async function names(page) {
  return page.evaluate(async () => {
    const {endpoint} = await import('/weir.js');
    const {addressesOf} = await import('/lib/ui.js');
    const of = (name) => addressesOf(name).map(([, address]) => address.replace(location.origin, ''));
    const way = (name, kind) => endpoint(name, kind).href.replace(location.origin, '');
    return {
      endpoints: [
        way('river', 'whip'), way('Anna Maria/a b+c', 'whep'), way('live/a?token=x+y&vhost=v', 'whep'),
        way('webrtc://h.example/live/x', 'whep'), way('webrtc://h.example:80/a%20b/x?schema=https', 'whip'),
        way('https://h.example/whep?a=b+c', 'whep'),
      ],
      addresses: [of('river'), of('live/a b?token=secret&vhost=v'), of('webrtc://h.example/live/x'), of('https://h.example/whep')],
    };
  });
}

/** A stream that nobody publishes is not called live; it is once it comes, and comes back to a page that was away. */
async function nobody(browser) {
  const page = await open(browser, '/players/?stream=live/none&autostart=true');
  await says(page, 'state', 'Nothing');
  const said = [await text(page, 'state')];
  await pictures(page, 'nothing');
  const publisher = await open(browser, '/publish/?stream=live/none&autostart=true');
  await state(page, 'live');
  await page.evaluate(() => dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true})));
  await page.evaluate(() => dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true})));
  await state(page, 'reconnecting');
  await state(page, 'live');
  // The microphone is unplugged while it is published; another one is chosen, and none.
  await publisher.evaluate(() => document.getElementById('picture').srcObject.getAudioTracks()[0].dispatchEvent(new Event('ended')));
  await says(publisher, 'state', 'Live: The microphone is gone');
  await publisher.waitForSelector('#microphone option[data-device]', {state: 'attached'});
  await publisher.locator('#microphone').selectOption({index: 2});
  await publisher.waitForFunction(() => document.getElementById('picture').srcObject.getAudioTracks()[0]?.label.startsWith('Fake'));
  await state(publisher, 'live');
  await publisher.locator('#microphone').selectOption('none');
  await publisher.waitForFunction(() => !document.getElementById('picture').srcObject.getAudioTracks().length);
  await state(publisher, 'live');
  await page.waitForFunction(() => document.getElementById('state').dataset.state === 'live');
  await publisher.locator('#stop').click();
  await says(page, 'state', 'Nothing');
  said.push(await text(page, 'state'));
  await Promise.all([page.close(), publisher.close()]);
  return said;
}

/** Where no packet finds a way. */
async function noWay(browser) {
  const page = await open(browser, '/players/?stream=live/none&autostart=true', () => {
    const real = RTCPeerConnection.prototype.setRemoteDescription;
    RTCPeerConnection.prototype.setRemoteDescription = function without({type, sdp}) {
      return real.call(this, {type, sdp: sdp.replace(/a=candidate.*\r\n/g, '')});
    };
  });
  await state(page, 'reconnecting');
  const said = await text(page, 'state');
  await page.close();
  return said;
}

/** Links that others made send nothing to hosts of theirs. */
async function foreign(browser) {
  const publisher = await open(browser, '/publish/?stream=webrtc://elsewhere.example/live/a&autostart=true', watchDevices);
  await says(publisher, 'state', 'elsewhere');
  const room = await open(browser, '/demos/room.html?autostart=true&host=elsewhere.example&wsh=third.example', watchDevices);
  await says(room, 'trouble', 'elsewhere');
  const said = [await text(publisher, 'state'), await text(room, 'trouble')];
  await pictures(room, 'foreign');
  const asked = await alive(publisher) + await alive(room);
  await Promise.all([publisher.close(), room.close()]);
  return {said, asked};
}

/** Whatever fails lets go of what it took. */
async function failures(browser) {
  const nowhere = await open(browser, '/demos/room.html?autostart=true&wsh=a%20b', watchDevices);
  await nowhere.waitForSelector('#trouble:not([hidden])');
  const left = {room: await alive(nowhere), tiles: await nowhere.locator('.tile').count()};
  const publisher = await open(browser, '/publish/', fakeScreen);
  await publisher.evaluate(() => {
    navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', 'NotAllowedError'); };
  });
  await publisher.locator('#camera').selectOption('screen');
  await publisher.locator('#start').click();
  await state(publisher, 'failed');
  left.publish = await publisher.evaluate(() => window.shared.map(({readyState}) => readyState));
  // The browser of this one has no clipboard, as all have for pages of http.
  const home = await open(browser, '/', () => Object.defineProperty(navigator, 'clipboard', {value: undefined}));
  const first = home.locator('.addresses button').first();
  await first.click();
  left.copied = [await first.innerText(), await home.evaluate(() => getSelection().toString().startsWith('rtmp://'))];
  const without = await open(browser, '/players/?autostart=true', () => { delete window.RTCPeerConnection; });
  await state(without, 'failed');
  left.without = await text(without, 'state');
  await Promise.all([nowhere, publisher, home, without].map((page) => page.close()));
  return left;
}

/** One without a camera is in a call, shares a screen after all, and has hung up when the next one is chosen. */
async function noCamera(browser) {
  const page = await open(browser, '/demos/room.html?autostart=true&room=solo&display=ann', () => {
    const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wish) => {
      if (wish.video) throw new DOMException('none', 'NotFoundError');
      return real(wish);
    };
  });
  await page.evaluate(fakeScreen);
  await state(page, 'live');
  const said = await text(page, 'trouble');
  await page.locator('#screen').click();
  await page.waitForFunction(() => document.querySelector('.tile video').videoWidth === 400);
  await page.locator('#screen').click();
  await page.waitForFunction(() => document.querySelector('.tile video').srcObject.getVideoTracks().length === 0);
  await page.evaluate(() => { window.picked = new Promise((resolve) => { window.pick = resolve; }); });
  await page.locator('#screen').click();
  await page.locator('#hangup').click();
  await page.evaluate(() => window.pick());
  await page.waitForFunction(() => window.shared.length === 2 && window.shared[1].readyState === 'ended');
  await page.close();
  return said;
}

/** The network goes while a stream is published: its name is free again at once. */
async function offline(browser) {
  const page = await open(browser, '/');
  await page.evaluate(async () => {
    const {publish} = await import('/weir.js');
    const canvas = Object.assign(document.createElement('canvas'), {width: 64, height: 64});
    const paint = canvas.getContext('2d');
    setInterval(() => paint.fillRect(Math.random() * 64, 0, 8, 8), 50);
    window.states = [];
    window.session = publish('live/moving', canvas.captureStream(10), {onState: (...told) => window.states.push(told.join(': '))});
  });
  const is = (wanted) => page.waitForFunction((wanted) => window.session.state === wanted, wanted);
  await is('live');
  await page.context().setOffline(true);
  // The server hears nothing of it, and holds the session for alive.
  await page.evaluate(() => {
    window.session.connection.close = () => {};
    window.session.lost(window.session.connection);
  });
  await page.waitForFunction(() => window.states.some((told) => told.includes('not reached')));
  await page.context().setOffline(false);
  const backMs = await took(is('live'));
  const states = await page.evaluate(() => window.states);
  await page.close();
  return {backMs, refused: states.filter((told) => told.includes('Somebody else')).length};
}

/** A server of rooms that says nothing more is left, and one that is loaded anew is who it was. */
async function silence(browser) {
  const page = await browser.newPage({viewport: SIZES.desk});
  let silent = false;
  await page.routeWebSocket('**/sig/v1/rtc*', (socket) => {
    const server = socket.connectToServer();
    socket.onMessage((message) => silent || server.send(message));
    server.onMessage((message) => silent || socket.send(message));
    // Nobody tells the server that it is over.
    socket.onClose(() => {});
  });
  await page.goto(`${origin}/demos/room.html?room=quiet&display=ann&autostart=true`);
  await state(page, 'live');
  silent = true;
  const noticedMs = await took(state(page, 'reconnecting'));
  silent = false;
  await state(page, 'live');
  await page.reload();
  await state(page, 'live');
  await page.close();
  return {noticedMs};
}

/** What sends and receives goes without a word. */
async function killed(browser) {
  const publisher = await open(browser, '/publish/?stream=live/killed&autostart=true');
  const watcher = await open(browser, '/players/?stream=live/killed&autostart=true');
  await Promise.all([state(publisher, 'live'), state(watcher, 'live')]);
  process.stdout.write(`${JSON.stringify({killing: true})}\n`);
  const noticedMs = await took(Promise.all([state(publisher, 'reconnecting'), state(watcher, 'reconnecting')]));
  const backMs = await took(Promise.all([state(publisher, 'live'), state(watcher, 'live')]));
  await Promise.all([publisher.close(), watcher.close()]);
  return {noticedMs, backMs};
}

const browser = await chromium.launch({executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS});
try {
  const home = await open(browser, '/');
  const said = {...await names(home)};
  // It takes its time.
  const way = noWay(browser);
  for (const [name, what] of Object.entries({nobody, foreign, failures, noCamera, offline, silence, killed})) {
    said[name] = await what(browser);
    process.stderr.write(`${name} after ${Math.round(performance.now())} ms\n`);
  }
  said.noWay = await way;
  process.stdout.write(`${JSON.stringify({...said, errors})}\n`);
} finally {
  await browser.close();
}
