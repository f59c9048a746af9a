//! Everything that can go wrong in the simulated world: names, rates, and how often each happened.

use crate::draw::{Draw, Purpose};

macro_rules! faults {
    ($($variant:ident $name:literal $what:literal;)*) => {
        /// Something that can go wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Fault {
            $(#[doc = $what] $variant,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name used on the command line and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happens.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

faults! {
    QueryLost "query-lost" "A client's datagram is lost.";
    QueryTwice "query-twice" "A client's datagram arrives twice.";
    QueryLate "query-late" "A client's datagram is overtaken by later ones.";
    SentLost "sent-lost" "A datagram to an upstream is lost.";
    SentTwice "sent-twice" "A datagram to an upstream arrives twice.";
    ReplyLost "reply-lost" "A datagram from an upstream is lost.";
    ReplyTwice "reply-twice" "A datagram from an upstream arrives twice.";
    ReplyLate "reply-late" "A reply takes up to ten seconds.";
    Burst "burst" "For a while all datagrams of an upstream are lost.";
    DeafUpstream "deaf-upstream" "For a while an upstream hears nothing, but can be heard.";
    MuteUpstream "mute-upstream" "For a while an upstream hears, but cannot be heard.";
    CutReply "cut-reply" "A reply loses its end on the way.";
    Mutated "mutated" "Somebody on the path changes id, question or header of a reply.";
    Dead "dead" "An upstream is silent for a long while.";
    Unreachable "unreachable" "An upstream's host answers with ICMP errors for a while.";
    Slow "slow" "An upstream takes seconds for a while.";
    Flapping "flapping" "An upstream goes down and comes back, again and again.";
    WrongId "wrong-id" "An upstream replies under another id.";
    WrongQuestion "wrong-question" "An upstream replies to another question.";
    Truncates "truncates" "An upstream sets TC on whatever it sends as a datagram.";
    NoEdns "no-edns" "An upstream answers EDNS with FORMERR.";
    Oversize "oversize" "An upstream sends more octets than it was allowed.";
    IgnoresCase "ignores-case" "An upstream replies in lower case.";
    ErrorRcode "error-rcode" "An upstream answers SERVFAIL, REFUSED or NOTIMP.";
    NoQuestion "no-question" "An upstream answers with an error and leaves the question out.";
    TrailingGarbage "trailing-garbage" "An upstream adds octets behind its reply.";
    GarbageReply "garbage-reply" "An upstream sends random octets.";
    ConnectRefused "connect-refused" "An upstream refuses a TCP connection.";
    ConnectSilent "connect-silent" "An upstream never answers to a SYN.";
    StreamReset "stream-reset" "An upstream resets a connection.";
    StreamEnds "stream-ends" "An upstream closes a connection, queries unanswered or not.";
    StreamSilent "stream-silent" "An upstream takes a query over TCP and says nothing.";
    StreamPieces "stream-pieces" "Octets arrive in small pieces.";
    TlsSilent "tls-silent" "An upstream accepts a connection, and its TLS handshake never ends.";
    TlsFails "tls-fails" "A TLS handshake with an upstream fails, for any reason.";
    ExchangeFails "exchange-fails" "An upstream resets an HTTP exchange.";
    GoAway "go-away" "An upstream ends an HTTP connection, and takes no new exchange meanwhile.";
    WrongStatus "wrong-status" "An upstream responds with another status than 200.";
    WrongMediaType "wrong-media-type" "An upstream responds with something that is no DNS message.";
    WritesStall "writes-stall" "The kernel takes octets in small parts, and late.";
    ClientResets "client-resets" "A client resets its connection.";
    ClientHalfCloses "client-half-closes" "A client ends its side and still reads.";
    ClientReadsNot "client-reads-not" "A client does not read its answers.";
    ClientStops "client-stops" "A client stops in the middle of a message.";
    HandshakeLate "handshake-late" "A client takes seconds for its TLS handshake.";
    HandshakeStalls "handshake-stalls" "A client begins a handshake, or its proxy a header, and says no more.";
    HandshakeFails "handshake-fails" "A client's TLS handshake fails, or its proxy's header is none.";
    ExchangeReset "exchange-reset" "A client resets an HTTP exchange, before its response or instead of taking it.";
    ResetFlood "reset-flood" "A client opens and resets HTTP exchanges as fast as it can.";
    BodyStops "body-stops" "A client stops in the middle of a request's body.";
    OddRequest "odd-request" "A client requests something over HTTP that is no DNS query.";
    NoProxyHeader "no-proxy-header" "A datagram from a proxy does not begin with a header.";
    Garbage "garbage" "A client sends what is no query.";
    OddQuery "odd-query" "A client sends a query that has to be refused.";
    Retries "retries" "A client asks again with the same id.";
    SpoofedId "spoofed-id" "A spoofer who knows port and question guesses ids.";
    SpoofedCase "spoofed-case" "A spoofer who knows port and id guesses the letter case.";
    SpoofedName "spoofed-name" "A spoofer who knows port and id replies to another question.";
    SpoofFlood "spoof-flood" "A spoofer sends thousands of ids to one port.";
    SocketFails "socket-fails" "A UDP socket cannot be opened.";
    SocketLate "socket-late" "A UDP socket takes a while to open.";
    SendFails "send-fails" "A datagram to a client cannot be sent.";
    LateTimer "late-timer" "The worker is late for a deadline.";
    EarlyTimer "early-timer" "The worker is told of a timeout that is none.";
    DeadHandle "dead-handle" "Something is reported of a socket or connection that has gone.";
    Crash "crash" "A worker panics and is started again.";
    Reload "reload" "The operator changes the configuration.";
    BadReload "bad-reload" "The operator offers a configuration with mistakes.";
    HostMoves "host-moves" "The host name of an upstream gets another address.";
    ProcessNotStarted "process-not-started" "A plugin's process cannot be started.";
    ProcessStartsLate "process-starts-late" "A plugin's process takes its time to start.";
    ProcessLate "process-late" "A plugin's process takes its time to answer.";
    ProcessHangs "process-hangs" "A plugin's process does not answer.";
    ProcessCrashes "process-crashes" "A plugin's process dies, or ends with an exit code.";
    ProcessExitsAtOnce "process-exits-at-once" "A plugin's process ends without having read anything.";
    ProcessFloods "process-floods" "A plugin's process writes without end.";
    ProcessHalf "process-half" "A plugin's process writes half of its answer.";
    ProcessGarbage "process-garbage" "A plugin's process writes what is no answer.";
    ProcessWrongId "process-wrong-id" "A plugin's process answers under another id.";
    ProcessTwice "process-twice" "A plugin's process answers twice.";
    ProcessLingers "process-lingers" "A plugin's process has answered, and does not end.";
    ProcessDiesLate "process-dies-late" "A plugin's process that was killed is reported late.";
    StopUnderLoad "stop-under-load" "The operator stops the daemon while clients ask.";
}

/// How often each fault happens, in a thousand occasions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates([u32; Fault::ALL.len()]);

impl Rates {
    /// Nothing goes wrong.
    #[must_use]
    pub const fn none() -> Self {
        Self([0; Fault::ALL.len()])
    }

    /// The rate of one fault.
    #[must_use]
    pub const fn get(&self, fault: Fault) -> u32 {
        self.0[fault as usize]
    }

    /// Sets the rate of one fault; zero switches it off.
    pub const fn set(&mut self, fault: Fault, per_mille: u32) {
        self.0[fault as usize] = per_mille;
    }

    /// The faults that are on.
    pub fn on(&self) -> impl Iterator<Item = Fault> {
        Fault::ALL.iter().copied().filter(|fault| self.get(*fault) > 0)
    }
}

/// Decides whether faults happen, and counts those that do.
#[derive(Debug)]
pub struct Faults {
    rates: Rates,
    healed: bool,
    draws: Vec<Draw>,
    fired: [u64; Fault::ALL.len()],
}

impl Faults {
    /// Each fault draws from a stream of its own: without one of them the others stay as they are.
    #[must_use]
    pub fn new(seed: u64, rates: Rates) -> Self {
        let draws = (0..Fault::ALL.len()).map(|number| Draw::new(seed, Purpose::Fault(number)));
        let fired = [0; Fault::ALL.len()];
        Self { rates, healed: false, draws: draws.collect(), fired }
    }

    /// Whether this fault happens now; counted if so.
    pub fn strike(&mut self, fault: Fault) -> bool {
        let rate = self.rate(fault);
        let struck = rate > 0 && self.draws[fault as usize].chance(rate);
        self.fired[fault as usize] += u64::from(struck);
        struck
    }

    /// The fault's own stream, for what it does when it happens.
    pub fn draw(&mut self, fault: Fault) -> &mut Draw {
        &mut self.draws[fault as usize]
    }

    /// The rate that holds now.
    #[must_use]
    pub fn rate(&self, fault: Fault) -> u32 {
        if self.healed { 0 } else { self.rates.get(fault) }
    }

    /// Counts an occurrence that was decided elsewhere.
    pub fn count(&mut self, fault: Fault) {
        self.fired[fault as usize] += 1;
    }

    /// From now on nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.healed = true;
    }

    /// Whether everything has healed.
    #[must_use]
    pub fn healed(&self) -> bool {
        self.healed
    }

    /// How often each fault happened, in the order of [`Fault::ALL`].
    #[must_use]
    pub fn fired(&self) -> &[u64] {
        &self.fired
    }
}
