// Publishes (WHIP, RFC 9725) and plays (WHEP) streams of weir, and meets others in rooms; and keeps doing so: what is lost
// is begun anew.
//
//   import {play, publish, Room} from '/weir.js';
//   const session = play('live/river', {onState: console.log});
//   video.srcObject = session.stream;
//   session.stop();
//   const room = new Room('live', 'alice', {onParticipants: console.log});
//   await room.control('alert', 'hello');

export {endpoint, Failed} from '/lib/endpoint.js';
export {play, publish, Session} from '/lib/session.js';
export {Room} from '/lib/room.js';

/**
 * @typedef {import('/lib/session.js').State} State
 * @typedef {import('/lib/session.js').Options} Options
 * @typedef {import('/lib/room.js').Participant} Participant
 * @typedef {import('/lib/room.js').RoomOptions} RoomOptions
 */
