//! Who an RTMP client is, and what the guard said of it.

use std::cell::Cell;
use std::future::pending;
use std::net::IpAddr;

use tokio::net::TcpStream;
use weir_media::StreamName;
use weir_node::access::Action;
use weir_proto::session;
use weir_wire::rtmp::{ConnectRequest, StreamRequest};

use super::{Done, Session};
use crate::guard::{Admitted, Caller, Denial, Wish, cut};
use crate::serve::{Client, Context};

/// See the module.
pub(super) struct Visitor {
    caller: Caller,
    /// Vhost and app of its first stream, once on_connect has let it in.
    greeted: Option<(Box<str>, Box<str>)>,
    /// Bytes written to it, but for those of what it plays now.
    sent: Cell<u64>,
    admitted: Option<Admitted>,
}

impl Visitor {
    pub(super) fn new(cx: &Context, client: &Client) -> Self {
        let caller = Caller::new(cx.hub.guard().client_id(client.id), client.peer.ip());
        Self { caller, greeted: None, sent: Cell::new(0), admitted: None }
    }

    /// One that another process knew; `None` where that did not say who it is.
    pub(super) fn arrive(cx: &Context, client: &Client, state: Option<session::Caller>) -> Self {
        let new = Self::new(cx, client);
        let Some(session::Caller { id, tc_url, page_url, vhost, app, sent }) = state else { return new };
        let caller = Caller { id, tc_url, page_url, ..new.caller };
        let greeted = (!vhost.is_empty()).then(|| (vhost.into(), app.into()));
        Self { caller, greeted, sent: Cell::new(sent), admitted: None }
    }

    /// What it says of itself.
    pub(super) fn connects(&mut self, request: &ConnectRequest) {
        self.caller.tc_url = cut(&request.tc_url).to_owned();
        self.caller.page_url = cut(&request.page_url).to_owned();
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent.set(self.sent.get().saturating_add(bytes));
    }

    pub(super) fn departing(&self) -> (session::Caller, Option<session::Admission>) {
        let Caller { id, tc_url, page_url, .. } = self.caller.clone();
        let (vhost, app) = self.greeted.clone().unwrap_or_default();
        let (vhost, app) = (vhost.into(), app.into());
        let caller = session::Caller { id, tc_url, page_url, vhost, app, sent: self.sent.get() };
        (caller, self.admitted.as_ref().map(Admitted::departing))
    }

    /// It does what another process let it in for.
    pub(super) fn does(&mut self, cx: &Context, action: Action, name: &StreamName, told: Option<session::Admission>) {
        let (config, ip) = (cx.hub.config(), self.ip());
        self.admitted = Some(cx.hub.guard().arrive(&config, action, name, ip, told.unwrap_or_default()));
    }

    fn ip(&self) -> IpAddr {
        self.caller.ip
    }

    /// It was let in, or does nothing any more: the end of what it did is told.
    pub(super) fn set(&mut self, admitted: Option<Admitted>) {
        self.admitted = admitted;
    }

    /// It goes on in another process: nothing is told.
    pub(super) fn moved(&mut self) {
        self.greeted = None;
        if let Some(admitted) = self.admitted.take() {
            admitted.departed();
        }
    }

    /// Its connection has ended.
    pub(super) fn left(&mut self, cx: &Context, received: u64) {
        self.admitted = None;
        if let Some((vhost, app)) = self.greeted.take() {
            cx.hub.guard().close(&cx.hub.config(), &self.caller, (&vhost, &app), self.sent.get(), received);
        }
    }
}

impl Session {
    /// Asks whether the client may. It has nobody else to wait for meanwhile, and need not stay.
    pub(super) async fn admit(
        &mut self,
        action: Action,
        name: &StreamName,
        request: &StreamRequest,
    ) -> Result<Result<Admitted, Denial>, Done> {
        let config = self.cx.hub.config();
        let Some((vhost, rules)) = config.vhost(&name.vhost) else { return Ok(Err(Denial::Limit)) };
        let param = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
        let wish = Wish { action, name, query: &request.query, param: &param };
        let Visitor { caller, greeted, .. } = &mut self.visitor;
        let mut first = greeted.is_none();
        let asked = tokio::select! {
            asked = self.cx.hub.guard().admit(rules, caller, wish, &mut first) => asked,
            () = self.cx.hub.closing() => return Err(Done::Closing),
            () = gone(self.client.socket()?) => return Err(Done::Left),
        };
        if !first && greeted.is_none() {
            *greeted = Some((vhost.into(), name.app.clone()));
        }
        if let Err(denial) = &asked {
            self.cx.hub.stats().refuse(denial.counted());
        }
        Ok(asked)
    }
}

/// Returns when the client has closed the connection, unless it has something to say before that.
async fn gone(socket: &TcpStream) {
    if let Ok(1..) = socket.peek(&mut [0]).await {
        pending().await
    }
}
