// The page that watches, in Chromium: `node players.mjs ORIGIN DIR STREAM...` watches each stream, written `way=name`, one
// after the other, and prints a JSON line of what was shown. Before the last one goes it prints `{"watching":true}`: it is to
// be disconnected then, and comes back. Screenshots go to DIR.
//
// Environment: PLAYWRIGHT, the directory that `playwright-core` is installed in; CHROMIUM, the executable.
import {createRequire} from 'node:module';
import {join} from 'node:path';

const {chromium} = createRequire(join(process.env.PLAYWRIGHT, '/'))('playwright-core');
const [origin, dir, ...streams] = process.argv.slice(2);
const timeout = 30_000;
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const state = (page, wanted) => page.waitForFunction((wanted) =>
  document.getElementById('state').dataset.state === wanted, wanted, {timeout});

// Waits until so many more pictures were shown.
async function seen(page, more) {
  const frames = () => document.getElementById('picture').getVideoPlaybackQuality().totalVideoFrames;
  const before = await page.evaluate(frames);
  await page.waitForFunction((wanted) =>
    document.getElementById('picture').getVideoPlaybackQuality().totalVideoFrames >= wanted, before + more, {timeout});
}

// What the picture is like now: how far apart its brightest and darkest points are, and whether there is sound.
const look = (page) => page.evaluate(async () => {
  const [picture, canvas] = [document.getElementById('picture'), document.createElement('canvas')];
  [canvas.width, canvas.height] = [64, 36];
  const paint = canvas.getContext('2d', {willReadFrequently: true});
  paint.drawImage(picture, 0, 0, 64, 36);
  const green = [...paint.getImageData(0, 0, 64, 36).data].filter((_, i) => i % 4 === 1);
  // The loudest of half a second.
  const level = async (stream) => {
    const audio = new AudioContext();
    const listener = audio.createAnalyser();
    audio.createMediaStreamSource(stream).connect(listener);
    const samples = new Float32Array(listener.fftSize);
    let loudest = 0;
    for (let i = 0; i < 10; i += 1) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      listener.getFloatTimeDomainData(samples);
      loudest = Math.max(loudest, ...samples.map(Math.abs));
    }
    await audio.close();
    return loudest;
  };
  const ranges = picture.buffered;
  return {
    contrast: Math.max(...green) - Math.min(...green),
    sound: picture.srcObject ? await level(picture.srcObject) > 0.01 : picture.webkitAudioDecodedByteCount > 0,
    behind: ranges.length ? ranges.end(ranges.length - 1) - picture.currentTime : null,
  };
});

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--autoplay-policy=no-user-gesture-required'],
});
try {
  for (const [i, stream] of streams.entries()) {
    const [way, name] = stream.split(/=(.*)/s);
    const complaints = [];
    const page = await browser.newPage({viewport: {width: 1100, height: 900}});
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complaints.push(message.text()));
    await page.goto(`${origin}/players/?by=${way}&stream=${encodeURIComponent(name)}&autostart=true`);
    await state(page, 'live');
    await seen(page, 30);
    await page.waitForFunction(() => document.getElementById('figures').textContent.includes('Waits in the buffer'), null, {timeout});
    // The first second is no measure of what waits.
    await seen(page, 50);
    const shown = {way, ...await look(page), figures: await page.locator('#figures').innerText()};
    await page.screenshot({path: join(dir, `watch-${way}-${i}.png`), fullPage: true});
    if (i === streams.length - 1) {
      say({watching: true});
      await state(page, 'reconnecting');
      const lost = Date.now();
      await state(page, 'live');
      shown.backMs = Date.now() - lost;
      await seen(page, 20);
    }
    await page.locator('#stop').click();
    shown.stopped = await page.locator('#state').innerText();
    say({...shown, complaints});
    await page.close();
  }
} finally {
  await browser.close();
}
