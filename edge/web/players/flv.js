// Watches by HTTP-FLV, with mpegts.js.
import {decoded} from '/lib/endpoint.js';
import {kilobits, mediaOrigin, millis} from '/lib/ui.js';
import {buffered, keep, pictureMeter, refusal} from '/players/retry.js';

/** Seconds behind the newest picture at which it jumps forward, and how far behind it is then. */
const BEHIND = {most: 1.5, then: 0.4};

/** How long a stream that comes may stay without a picture or a sound, in milliseconds: it may have but one of them. */
const PLAYS_WITHIN = 3000;

/** What a stream may have, in the order that it is tried. */
const TRACKS = [{}, {hasAudio: false}, {hasVideo: false}];

/**
 * Where `app/stream` is read; an address stays as it is.
 *
 * @param {string} name
 * @param {string} extension
 * @returns {string}
 */
export function address(name, extension) {
  if (/^https?:/i.test(name)) return name;
  const [path, query] = name.split(/\?(.*)/s);
  const parts = path.split('/').filter(Boolean);
  if (parts.length < 2) parts.unshift('live');
  const escaped = parts.map((part) => encodeURIComponent(decoded(part)));
  return `${mediaOrigin()}/${escaped.join('/')}${extension}${query ? `?${query}` : ''}`;
}

/** It is no module: it comes when it is first wanted, and stays. */
let library = null;
function load() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = '/lib/mpegts.js';
    script.addEventListener('load', () => resolve(window.mpegts));
    script.addEventListener('error', () => reject(new Error('this server was built without mpegts.js')));
    document.head.append(script);
  });
  return library;
}

/**
 * @param {string} name `app/stream`, or an address
 * @param {HTMLVideoElement} picture
 * @param {(state: import('/weir.js').State, reason: string) => void} onState
 */
export function watch(name, picture, onState) {
  const url = address(name, '.flv');
  let [tracks, codecs, rate] = [0, null, null];
  const kept = keep((told) => {
    let [player, timer, known, over] = [null, 0, false, false];
    load().then((mpegts) => {
      if (over) return;
      if (!mpegts.isSupported()) return told.lost('this browser does not play HTTP-FLV; try WebRTC', true);
      mpegts.LoggingControl.enableAll = false;
      player = mpegts.createPlayer({type: 'flv', isLive: true, cors: true, url, ...TRACKS[tracks]}, {
        enableStashBuffer: false, lazyLoad: false, autoCleanupSourceBuffer: true,
        liveBufferLatencyChasing: true, liveBufferLatencyMaxLatency: BEHIND.most, liveBufferLatencyMinRemain: BEHIND.then,
      });
      player.on(mpegts.Events.ERROR, (kind, detail, info) => {
        if (kind === mpegts.ErrorTypes.NETWORK_ERROR) return told.lost(...refusal(info?.code > 0 ? info.code : 0));
        told.lost(`this browser cannot play it (${detail})`, kind === mpegts.ErrorTypes.MEDIA_ERROR);
      });
      player.on(mpegts.Events.LOADING_COMPLETE, () => told.lost('the stream has ended'));
      player.on(mpegts.Events.MEDIA_INFO, (info) => {
        known = true;
        clearTimeout(timer);
        codecs = [info.hasVideo && info.videoCodec, info.hasAudio && info.audioCodec].filter(Boolean).join(', ') || null;
      });
      player.on(mpegts.Events.STATISTICS_INFO, ({speed}) => {
        rate = speed * 8000;
        // It comes, and the player waits for the other track.
        if (!known && !timer && speed > 0) timer = setTimeout(() => {
          tracks = (tracks + 1) % TRACKS.length;
          told.lost('only picture or only sound?');
        }, PLAYS_WITHIN);
      });
      picture.addEventListener('playing', told.live);
      player.attachMediaElement(picture);
      player.load();
      player.play()?.catch(() => {});
    }, (error) => told.lost(error.message, true));
    return () => {
      over = true;
      clearTimeout(timer);
      picture.removeEventListener('playing', told.live);
      player?.destroy();
    };
  }, onState);
  const meter = pictureMeter(picture);
  return {
    stop: kept.stop,
    figures: async () => [
      ...meter(), ['Bit rate', kilobits(rate)], ['Codecs', codecs], ['Waits in the buffer', millis(buffered(picture))],
    ],
  };
}
