// The pages of weir in Chromium: `node pages.mjs ORIGIN DIR` publishes by one page and watches by another, and prints a
// JSON object: what both showed, what the watcher did when its server forgot it, whatever the consoles complained about.
// Screenshots of each page go to DIR, at the sizes of a desk and of a phone, light and dark.
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
const WITHIN = 30_000;
const complaints = [];

async function open(browser, path) {
  const page = await browser.newPage({viewport: SIZES.desk});
  const note = (text) => complaints.push(`${path.split('?')[0]}: ${text}`);
  page.on('pageerror', (error) => note(error.message));
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && note(message.text()));
  page.on('requestfailed', (request) => note(`${request.method()} ${request.url()}: ${request.failure()?.errorText}`));
  await page.goto(origin + path);
  return page;
}

const live = (page) => page.waitForFunction(() => document.getElementById('state').dataset.state === 'live', null, {timeout: WITHIN});
const frames = (page) => page.evaluate(() => document.getElementById('picture').getVideoPlaybackQuality().totalVideoFrames);

async function watched(page, more) {
  const before = await frames(page);
  await page.waitForFunction((wanted) =>
    document.getElementById('picture').getVideoPlaybackQuality().totalVideoFrames >= wanted, before + more, {timeout: WITHIN});
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

// Whether the page is wider than a small phone.
const overflows = async (page) => {
  await page.setViewportSize(SIZES.phone);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  await page.setViewportSize(SIZES.desk);
  return wide;
};

const browser = await chromium.launch({executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args: FLAGS});
try {
  const home = await open(browser, '/');
  await home.waitForFunction(() => document.getElementById('version').textContent.includes('version'));
  const publisher = await open(browser, '/publish/?stream=live/Anna%20Maria&autostart=true');
  await live(publisher);
  const watcher = await open(browser, '/players/?stream=live/Anna%20Maria&autostart=true');
  await live(watcher);
  await watched(watcher, 30);
  await watcher.waitForFunction(() => document.getElementById('figures').textContent.includes('kbit/s'));
  const figures = await watcher.locator('#figures').innerText();
  const narrow = {};
  for (const [name, page] of Object.entries({home, publisher, watcher})) {
    narrow[name] = await overflows(page);
    await pictures(page, name);
  }
  // The connection is lost: it is begun anew by itself.
  const lost = Date.now();
  await watcher.evaluate(() => { window.before = document.getElementById('picture').srcObject.getTracks().map((track) => track.id); });
  process.stdout.write(`${JSON.stringify({watching: true})}\n`);
  await watcher.waitForFunction(() => document.getElementById('state').dataset.state === 'reconnecting', null, {timeout: WITHIN});
  const noticed = Date.now();
  await live(watcher);
  const back = Date.now();
  await watched(watcher, 20);
  await watcher.locator('#stop').click();
  await publisher.locator('#stop').click();
  const states = [await watcher.locator('#state').innerText(), await publisher.locator('#state').innerText()];
  const said = {figures, overflows: narrow, noticedMs: noticed - lost, backMs: back - noticed, states, complaints};
  process.stdout.write(`${JSON.stringify(said)}\n`);
} finally {
  await browser.close();
}
