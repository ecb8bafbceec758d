// Calls by the pages of weir in Chromium: `node calls.mjs ORIGIN DIR` has two people call each other and then four meet
// in a room, and prints JSON lines: what each page showed, and whatever the consoles complained about. After the line
// `{"calling":true}` the connection to the room is to be broken. Screenshots go to DIR, at the sizes of a desk and of a
// phone, light and dark.
//
// With a third argument, a file with the certificate of ORIGIN, two people meet there and no more.
//
// Environment: PLAYWRIGHT, the directory that `playwright-core` is installed in; CHROMIUM, the executable.
import {X509Certificate, createHash} from 'node:crypto';
import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {join} from 'node:path';

const {chromium} = createRequire(join(process.env.PLAYWRIGHT, '/'))('playwright-core');
const [origin, dir, certificate] = process.argv.slice(2);
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update',
  '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', '--autoplay-policy=no-user-gesture-required',
  '--allow-loopback-in-peer-connection', '--disable-background-timer-throttling', '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
];
// Only this certificate is trusted, for what nobody signed it.
if (certificate) {
  const key = new X509Certificate(readFileSync(certificate)).publicKey.export({type: 'spki', format: 'der'});
  FLAGS.push(`--ignore-certificate-errors-spki-list=${createHash('sha256').update(key).digest('base64')}`);
}
const SIZES = {desk: {width: 1100, height: 900}, phone: {width: 320, height: 700}};
const WITHIN = 60_000;
const complaints = [];
const overflows = {};
const sockets = [];

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

async function open(browser, path) {
  const page = await browser.newPage({viewport: SIZES.desk});
  page.setDefaultTimeout(WITHIN);
  const note = (text) => page.isClosed() || complaints.push(`${path.split('?')[0]}: ${text}`);
  page.on('pageerror', (error) => note(error.message));
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && note(message.text()));
  page.on('requestfailed', (request) => note(`${request.method()} ${request.url()}: ${request.failure()?.errorText}`));
  page.on('websocket', (socket) => sockets.push(socket.url()));
  await page.goto(origin + path);
  return page;
}

const caller = (browser, page, room, display) => open(browser,
  `/demos/${page}.html?room=${room}&display=${encodeURIComponent(display)}&size=320x240&autostart=true`);

// The names on the tiles, one's own first.
const tiles = (page) => page.locator('.tile .name').allInnerTexts();
const until = (page, names) => page.waitForFunction((wanted) =>
  [...document.querySelectorAll('.tile .name')].map((name) => name.textContent).sort().join() === wanted,
[...names].sort().join());

// Waits until the tile has shown so many more pictures.
async function seen(page, display, more) {
  await page.waitForFunction(({display, more}) => {
    const video = document.querySelector(`.tile[data-display="${display}"] video`);
    const frames = video?.srcObject ? video.getVideoPlaybackQuality().totalVideoFrames : 0;
    window.before ??= {};
    window.before[display] ??= frames;
    return frames >= window.before[display] + more;
  }, {display, more});
  await page.evaluate((display) => { delete window.before[display]; }, display);
}

// Waits until the tile shows that somebody speaks.
const heard = (page, display) => page.waitForSelector(`.tile[data-display="${display}"][data-speaking]`);

// Waits until nobody was seen speaking there for a while.
const quiet = (page, display) => page.waitForFunction((display) => {
  const now = performance.now();
  const meter = document.querySelector(`.tile[data-display="${display}"] meter`);
  if (meter.value >= 0.02 || window.quietSince === undefined) window.quietSince = now;
  return now - window.quietSince > 3000;
}, display);

async function pictures(page, name) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    await page.setViewportSize(viewport);
    if (size === 'phone') overflows[name] = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({colorScheme});
      await page.screenshot({path: join(dir, `${name}-${size}-${colorScheme}.png`), fullPage: true});
    }
  }
  await page.setViewportSize(SIZES.desk);
}

const state = (page, wanted) => page.waitForFunction((wanted) =>
  document.getElementById('state').dataset.state === wanted, wanted);

async function two(browser) {
  const alice = await caller(browser, 'one2one', 'duo', 'alice');
  const bob = await caller(browser, 'one2one', 'duo', 'bob <b>');
  await Promise.all([seen(alice, 'bob <b>', 30), seen(bob, 'alice', 30)]);
  await Promise.all([heard(alice, 'bob <b>'), heard(bob, 'alice')]);
  const names = await tiles(alice);
  const carol = await caller(browser, 'one2one', 'duo', 'carol');
  await carol.waitForSelector('#trouble:not([hidden])');
  const full = await carol.locator('#trouble').innerText();
  await carol.close();
  await bob.locator('#words').fill('<img src=x onerror=alert(1)> hello');
  await bob.locator('#alert button').click();
  await alice.waitForFunction(() => document.getElementById('said').textContent.includes('hello'));
  const said = await alice.locator('#said').innerText();
  await pictures(alice, 'one2one');
  await bob.locator('#mute').click();
  await quiet(alice, 'bob <b>');
  await bob.locator('#mute').click();
  await heard(alice, 'bob <b>');
  // There is no screen here: a canvas stands for it.
  await bob.evaluate(() => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 400, height: 300});
    const paint = canvas.getContext('2d');
    setInterval(() => {
      paint.fillStyle = `hsl(${performance.now() / 20} 80% 50%)`;
      paint.fillRect(0, 0, 400, 300);
    }, 50);
    navigator.mediaDevices.getDisplayMedia = async () => canvas.captureStream(10);
  });
  const wide = (width) => alice.waitForFunction(({width}) =>
    document.querySelector('.tile[data-display^=bob] video').videoWidth === width, {width});
  await bob.locator('#screen').click();
  await wide(400);
  // The screen goes on, and the camera does not come back by itself.
  await bob.locator('#camera').click();
  await seen(alice, 'bob <b>', 5);
  await bob.locator('#screen').click();
  await wide(320);
  const dark = await bob.evaluate(() => !document.querySelector('.tile video').srcObject.getVideoTracks()[0].enabled);
  await bob.locator('#camera').click();
  // Who asks time and again is heard once in a while.
  let begun = 0;
  alice.on('request', (request) => { begun += request.method() === 'POST'; });
  for (let i = 0; i < 3; i += 1) await bob.locator('#refresh').click();
  await alice.waitForFunction(() => document.getElementById('said').textContent.includes('refresh'));
  await Promise.all([seen(alice, 'bob <b>', 10), seen(bob, 'alice', 10)]);
  const asked = (await alice.locator('#said').innerText()).split('refresh').length - 1;
  say({calling: true});
  await Promise.all([state(alice, 'reconnecting'), state(bob, 'reconnecting')]);
  const lost = Date.now();
  await Promise.all([state(alice, 'live'), state(bob, 'live')]);
  const backMs = Date.now() - lost;
  await until(alice, ['alice (you)', 'bob <b>']);
  await Promise.all([seen(alice, 'bob <b>', 10), seen(bob, 'alice', 10)]);
  await alice.locator('#hangup').click();
  const left = Date.now();
  await until(bob, ['bob <b> (you)']);
  const goneMs = Date.now() - left;
  await Promise.all([alice.close(), bob.close()]);
  return {names, full, said, dark, asked, begun, backMs, goneMs};
}

async function four(browser) {
  const names = ['ann', 'ben', 'cleo', 'dan'];
  const pages = [];
  for (const name of names) pages.push(await caller(browser, 'room', 'hall', name));
  for (const [i, page] of pages.entries()) {
    await until(page, names.map((name) => (name === names[i] ? `${name} (you)` : name)));
    for (const name of names.filter((name) => name !== names[i])) await seen(page, name, 10);
  }
  await heard(pages[0], 'dan');
  await pictures(pages[0], 'room');
  // Closed like a window: nobody hangs up.
  await pages.pop().close();
  const closed = Date.now();
  for (const [i, page] of pages.entries()) {
    await until(page, names.slice(0, 3).map((name) => (name === names[i] ? `${name} (you)` : name)));
  }
  const goneMs = Date.now() - closed;
  for (const page of pages) await page.locator('#hangup').click();
  await pages[0].waitForSelector('#form:not([hidden])');
  await Promise.all(pages.map((page) => page.close()));
  return {goneMs};
}

async function overTls(browser) {
  const [alice, bob] = [await caller(browser, 'one2one', 'duo', 'alice'), await caller(browser, 'one2one', 'duo', 'bob')];
  await Promise.all([seen(alice, 'bob', 30), seen(bob, 'alice', 30)]);
  await Promise.all([heard(alice, 'bob'), heard(bob, 'alice')]);
  const secure = await alice.evaluate(() => isSecureContext && location.protocol === 'https:');
  await alice.screenshot({path: join(dir, 'one2one-tls.png')});
  await alice.locator('#hangup').click();
  await until(bob, ['bob (you)']);
  say({secure, sockets, complaints});
}

async function everything(browser) {
  for (const [name, path] of [['demos', '/demos/'], ['room-form', '/demos/room.html?room=%3Cb%3E']]) {
    const page = await open(browser, path);
    await pictures(page, name);
    await page.close();
  }
  const manifest = await open(browser, '/');
  const session = await manifest.context().newCDPSession(manifest);
  const {errors} = await session.send('Page.getAppManifest');
  await manifest.close();
  const one2one = await two(browser);
  const room = await four(browser);
  say({one2one, room, overflows, complaints, manifest: errors});
}

const browser = await chromium.launch({executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS});
try {
  await (certificate ? overTls : everything)(browser);
} finally {
  await browser.close();
}
