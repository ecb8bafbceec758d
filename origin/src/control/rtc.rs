//! WebRTC sessions, as edges open and close them for their clients.

use std::rc::Rc;

use tonic::{Code, Status};
use weir_proto::origin::{CloseRtcRequest, OpenRtcReply, OpenRtcRequest};
use weir_wire::rtp::Codec;
use weir_wire::sdp;

use super::read_name;
use crate::rtc::{Asked, NotClosed, Refused, Request, Rtc};

/// Codecs of pictures that may be wished for.
const WISHES: [Codec; 5] = [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp8, Codec::Vp9];

pub(super) fn open(rtc: Option<&Rc<Rtc>>, request: OpenRtcRequest) -> Result<OpenRtcReply, Status> {
    let rtc = rtc.ok_or_else(off)?;
    let name = request.name.ok_or_else(|| Status::invalid_argument("which stream?"))?;
    let codec = match request.codec.as_str() {
        "" => None,
        // As SRS and browsers call it.
        "hevc" => Some(Codec::H265),
        wish => {
            let known = WISHES.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(wish));
            Some(known.ok_or_else(|| Status::invalid_argument("there is no codec of this name"))?)
        }
    };
    let candidates =
        rtc.candidates(&Asked { eip: &request.eip, host: &request.api_host, addresses: &request.api_addresses });
    let request = Request {
        wishes: rtc.wishes(&name.vhost),
        name: read_name(&name),
        publish: request.publish,
        offer: request.sdp,
        codec,
        candidates,
        key: request.key,
        client: request.client,
        end: (!request.end.is_empty()).then_some((request.end_client, request.end)),
    };
    let opened = rtc.open(&request).map_err(|refused| {
        let code = match refused {
            Refused::Offer(sdp::Error::NoCodec) => Code::FailedPrecondition,
            Refused::Offer(_) => Code::InvalidArgument,
            Refused::Busy(_) => Code::AlreadyExists,
            Refused::Full(_) | Refused::NoRandom => Code::ResourceExhausted,
        };
        Status::new(code, refused.to_string())
    })?;
    Ok(OpenRtcReply { sdp: opened.sdp, session: opened.session, token: opened.token })
}

pub(super) fn close(rtc: Option<&Rc<Rtc>>, request: &CloseRtcRequest) -> Result<(), Status> {
    let rtc = rtc.ok_or_else(off)?;
    let (session, token) = (&request.session, &request.token);
    let done = if request.look { rtc.check(session, token) } else { rtc.close(session, token) };
    done.map_err(|why| match why {
        NotClosed::Unknown => Status::not_found(why.to_string()),
        NotClosed::Token => Status::permission_denied(why.to_string()),
    })
}

fn off() -> Status {
    Status::unimplemented("WebRTC is off at this origin")
}
