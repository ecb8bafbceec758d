// Begins anew what was lost, as /weir.js does for WebRTC: at once, then ever more slowly.
import {pauseBefore} from '/lib/endpoint.js';

/** @typedef {import('/weir.js').State} State */

/**
 * Keeps a connection going until it is stopped.
 *
 * @param {(told: {live: () => void, lost: (reason: string, final?: boolean) => void}) => () => void} open begins one,
 *   tells once it plays and once it is lost (`final`: trying again does not help), and gives what ends it
 * @param {(state: State, reason: string) => void} onState told at each change
 * @returns {{stop: () => void}}
 */
export function keep(open, onState) {
  let attempt = 0;
  let timer = 0;
  let close = () => {};
  const begin = () => {
    let over = false;
    const told = {
      live: () => {
        if (over) return;
        attempt = 0;
        onState('live', '');
      },
      lost: (reason, final = false) => {
        if (over) return;
        over = true;
        close();
        if (final) return onState('failed', reason);
        onState('reconnecting', reason);
        timer = setTimeout(begin, pauseBefore(attempt++));
      },
    };
    const end = open(told);
    close = () => {
      over = true;
      end();
    };
  };
  onState('connecting', '');
  begin();
  return {
    stop: () => {
      clearTimeout(timer);
      close();
    },
  };
}

/**
 * What an answer that is no stream means.
 *
 * @param {number} status of HTTP
 * @returns {[string, boolean]} in words, and whether trying again does not help
 */
export function refusal(status) {
  if (status === 404) return ['the stream is not published', false];
  if (status === 401 || status === 403) return ['not allowed', true];
  return [status ? `the server answers ${status}` : 'no answer', false];
}

/** What is decoded of a picture, by time: pictures a second, and those that were dropped. */
export function pictureMeter(picture) {
  let before = null;
  return () => {
    const [quality, at] = [picture.getVideoPlaybackQuality?.(), performance.now()];
    if (!quality) return [];
    const rate = before && at > before.at ? (quality.totalVideoFrames - before.frames) * 1000 / (at - before.at) : null;
    before = {frames: quality.totalVideoFrames, at};
    return [
      ['Size', picture.videoWidth ? `${picture.videoWidth} x ${picture.videoHeight}` : null],
      ['Pictures a second', rate !== null && rate >= 0 ? String(Math.round(rate)) : null],
      ['Dropped pictures', String(quality.droppedVideoFrames)],
    ];
  };
}

/**
 * Seconds that came and are not played yet.
 *
 * @param {HTMLVideoElement} picture
 * @returns {number | null}
 */
export function buffered(picture) {
  const ranges = picture.buffered;
  return ranges.length ? Math.max(0, ranges.end(ranges.length - 1) - picture.currentTime) : null;
}
