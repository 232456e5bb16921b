//! The crypto session of QUIC inside a circuit: the circuit is the key, so nothing is sealed twice.
//!
//! The layer to the exit authenticates and encrypts every body, therefore both sides finish the handshake of
//! quinn-proto alone, by feeding their own endpoint constant packets ([`client_first`], [`exit_first`]); not
//! one byte of it travels. All that is left of packet protection is a 4-byte tag with the key generation and
//! bits 8 to 32 of the packet number: no MAC, but it makes quinn-proto drop a late packet whose truncated
//! number or key phase it has expanded wrongly, which a real AEAD does by its nonce and its key.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, ConnectError, Connection, ConnectionHandle, ConnectionId,
    ConnectionIdGenerator, DatagramEvent, Endpoint, EndpointConfig, IdleTimeout, NoneTokenLog,
    NoneTokenStore, ServerConfig, Side, TransportConfig, TransportError, TransportErrorCode,
    ValidationTokenConfig, VarInt,
    crypto::{
        self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, UnsupportedVersion,
    },
    transport_parameters::TransportParameters,
};

use super::{End, FIRST_STREAMS, PEER, STREAM_WINDOW, StreamConfig, StreamError, TIME_THRESHOLD, controller};

/// [`super::MAX_QUIC_PACKET`] as quinn-proto counts it.
const MTU: u16 = 1278;

/// The peer acknowledges at the latest when it holds more than this many packets.
const ACK_THRESHOLD: u32 = 31;

/// The peer acknowledges at the latest after this time: the RTT / 4 of a usual circuit, as quinn-proto cannot
/// change it with the round trip.
const ACK_DELAY: Duration = Duration::from_millis(25);

/// The connection id that the constant first packet of the exit's own handshake is sent to.
const FIRST_CID: [u8; 8] = [0; 8];

/// QUIC version 1 (RFC 9000), the only one.
const VERSION: u32 = 1;

/// Completes the handshake of one side alone, with the constant packets.
pub(super) fn establish(
    now: Instant,
    end: End,
    config: &StreamConfig,
    seed: [u8; 32],
) -> Result<(Endpoint, ConnectionHandle, Connection), StreamError> {
    let mut answer = Vec::new();
    let side = match end {
        End::Client => Side::Client,
        End::Exit => Side::Server,
    };
    let keyed = CircuitKeyed::new(side, frozen(end, config)).map_err(|_| StreamError::Config)?;
    let keyed = Arc::new(keyed);
    let transport = Arc::new(transport(end, config));
    let settings = endpoint_config()?;
    match end {
        End::Client => {
            let mut client = ClientConfig::new(keyed);
            client
                .transport_config(transport)
                .token_store(Arc::new(NoneTokenStore))
                .version(VERSION)
                .initial_dst_cid_provider(Arc::new(|| ConnectionId::new(&[])));
            let mut endpoint = Endpoint::new(settings, None, false, Some(seed));
            let (handle, mut connection) =
                endpoint.connect(now, client, PEER, "").map_err(|_| StreamError::Config)?;
            let first = client_first();
            match endpoint.handle(now, PEER, None, None, first, &mut answer) {
                Some(DatagramEvent::ConnectionEvent(_, event)) => connection.handle_event(event),
                _ => return Err(StreamError::Config),
            }
            established(endpoint, handle, connection)
        }
        End::Exit => {
            let mut tokens = ValidationTokenConfig::default();
            tokens.sent(0).log(Arc::new(NoneTokenLog));
            let mut server = ServerConfig::new(keyed, Arc::new(NoKey));
            server.transport_config(transport).migration(false).validation_token_config(tokens);
            let mut endpoint = Endpoint::new(settings, Some(Arc::new(server)), false, Some(seed));
            let first = exit_first();
            match endpoint.handle(now, PEER, None, None, first, &mut answer) {
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let (handle, connection) =
                        endpoint.accept(incoming, now, &mut answer, None).map_err(|_| StreamError::Config)?;
                    endpoint.set_server_config(None);
                    established(endpoint, handle, connection)
                }
                _ => Err(StreamError::Config),
            }
        }
    }
}

fn established(
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
) -> Result<(Endpoint, ConnectionHandle, Connection), StreamError> {
    if connection.is_handshaking() || connection.is_closed() {
        return Err(StreamError::Config);
    }
    Ok((endpoint, handle, connection))
}

/// What this end believes of the other (circuit.stream.4).
fn frozen(end: End, config: &StreamConfig) -> Frozen {
    Frozen {
        idle_ms: idle_ms(config).into(),
        packet: MTU.into(),
        window: end.other().window().into(),
        stream_window: STREAM_WINDOW.into(),
        streams: match end {
            End::Client => FIRST_STREAMS.into(),
            End::Exit => 0,
        },
    }
}

fn idle_ms(config: &StreamConfig) -> u32 {
    u32::try_from(config.idle.as_millis()).unwrap_or(u32::MAX)
}

fn endpoint_config() -> Result<Arc<EndpointConfig>, StreamError> {
    let mut config = EndpointConfig::new(Arc::new(NoKey));
    config.cid_generator(|| Box::new(NoId));
    config.max_udp_payload_size(MTU).map_err(|_| StreamError::Config)?;
    config.supported_versions(vec![VERSION]);
    config.grease_quic_bit(false);
    Ok(Arc::new(config))
}

/// The frozen profile (design, section 5).
fn transport(end: End, config: &StreamConfig) -> TransportConfig {
    let peer_opens = match end {
        End::Client => 0,
        End::Exit => FIRST_STREAMS,
    };
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD))
        .max_ack_delay(Some(ACK_DELAY))
        .reordering_threshold(VarInt::from_u32(0));
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(MTU)
        .min_mtu(MTU)
        .mtu_discovery_config(None)
        .allow_spin(false)
        .max_concurrent_bidi_streams(VarInt::from_u32(peer_opens))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(end.window()))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(STREAM_WINDOW.into())
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms(config)))))
        .packet_threshold(1 << 20)
        .time_threshold(TIME_THRESHOLD)
        .initial_rtt(config.first_rtt)
        .ack_frequency_config(Some(acks))
        .crypto_buffer_size(0)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .enable_segmentation_offload(true)
        .congestion_controller_factory(Arc::new(controller::Factory));
    transport
}

/// The limits that each side believes of the other: no transport parameter ever travels.
#[derive(Clone, Copy, Debug)]
struct Frozen {
    /// Idle timeout, in milliseconds.
    idle_ms: u64,
    /// The largest QUIC packet.
    packet: u64,
    /// The receive window of the connection.
    window: u64,
    /// The receive window of a stream.
    stream_window: u64,
    /// Streams that the *peer* of the holder of this value may open at first.
    streams: u64,
}

impl Frozen {
    /// The peer's transport parameters (RFC 9000 section 18), as `side` would have read them from the wire.
    fn parameters(self, side: Side) -> Result<TransportParameters, TransportError> {
        let mut out = Vec::with_capacity(96);
        let mut number = |id: u64, value: u64| {
            variable(&mut out, id);
            let mut bytes = Vec::with_capacity(8);
            variable(&mut bytes, value);
            variable(&mut out, bytes.len() as u64);
            out.extend_from_slice(&bytes);
        };
        number(0x01, self.idle_ms); // max_idle_timeout
        number(0x03, self.packet); // max_udp_payload_size
        number(0x04, self.window); // initial_max_data
        number(0x05, self.stream_window); // initial_max_stream_data_bidi_local
        number(0x06, self.stream_window); // initial_max_stream_data_bidi_remote
        number(0x08, self.streams); // initial_max_streams_bidi
        number(0x09, 0); // initial_max_streams_uni
        number(0xff04_de1b, 1000); // min_ack_delay in microseconds: the ack frequency extension
        variable(&mut out, 0x0c); // disable_active_migration
        variable(&mut out, 0);
        variable(&mut out, 0x0f); // initial_source_connection_id, of no length
        variable(&mut out, 0);
        if side.is_client() {
            variable(&mut out, 0x00); // original_destination_connection_id, of no length
            variable(&mut out, 0);
        }
        TransportParameters::read(side, &mut out.as_slice()).map_err(Into::into)
    }
}

/// Appends a variable-length integer (RFC 9000 section 16) in its shortest form.
fn variable(out: &mut Vec<u8>, value: u64) {
    let bytes = value.to_be_bytes();
    let (skip, form) = match value {
        0..=0x3f => (7, 0x00),
        0x40..=0x3fff => (6, 0x40),
        0x4000..=0x3fff_ffff => (4, 0x80),
        _ => (0, 0xc0),
    };
    let start = out.len();
    out.extend(bytes.into_iter().skip(skip));
    if let Some(first) = out.get_mut(start) {
        *first |= form;
    }
}

/// The constant packet that ends a client's own handshake.
fn client_first() -> BytesMut {
    let mut out = Vec::with_capacity(32);
    long_packet(&mut out, 0xe0, &[], 8);
    BytesMut::from(out.as_slice())
}

/// The constant packets that begin and end an exit's own handshake.
fn exit_first() -> BytesMut {
    let mut out = Vec::with_capacity(1300);
    long_packet(&mut out, 0xc0, &FIRST_CID, 1190);
    long_packet(&mut out, 0xe0, &FIRST_CID, 8);
    BytesMut::from(out.as_slice())
}

/// Appends a long-header packet (`first`: 0xc0 Initial, 0xe0 Handshake) of `padding` zero bytes and the tag.
fn long_packet(out: &mut Vec<u8>, first: u8, to: &[u8], padding: u16) {
    out.push(first);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[u8::try_from(to.len()).unwrap_or(0)]);
    out.extend_from_slice(to);
    out.push(0); // source id of no length
    if first == 0xc0 {
        out.push(0); // token of no length
    }
    out.extend_from_slice(&(0x4000 | (padding + 1)).to_be_bytes());
    out.resize(out.len() + 1 + usize::from(padding), 0); // packet number 0, PADDING, tag 0
}

/// The short-header packet at the end of one of our own datagrams, without the long-header packets before it.
///
/// quinn-proto puts them before a `CONNECTION_CLOSE`, and probes with them as long as it has not seen the
/// peer's first packet. Nothing is left of a datagram without a short header.
pub(super) fn strip(mut datagram: &[u8]) -> Option<&[u8]> {
    while let [first, _, _, _, _, rest @ ..] = datagram {
        if first & 0x80 == 0 {
            return Some(datagram);
        }
        let mut rest = skip_sized(skip_sized(rest)?)?;
        if first & 0x30 == 0 {
            rest = skip_sized(rest)?;
        }
        let (length, rest) = rest.split_first_chunk::<2>()?;
        datagram = rest.get(usize::from(u16::from_be_bytes(*length) & 0x3fff)..)?;
    }
    (!datagram.is_empty()).then_some(datagram)
}

/// Skips a field with a one-byte length.
fn skip_sized(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first()?;
    rest.get(usize::from(*length)..)
}

/// No header protection: relays see only whole sealed cells.
struct Open;

impl HeaderKey for Open {
    fn decrypt(&self, _: usize, _: &mut [u8]) {}
    fn encrypt(&self, _: usize, _: &mut [u8]) {}
    fn sample_size(&self) -> usize {
        0
    }
}

/// The tag in place of packet protection; holds the key generation.
struct Tag(u8);

/// The length of a tag.
const TAG: usize = 4;

impl Tag {
    fn of(&self, number: u64) -> [u8; TAG] {
        let [_, _, _, _, high, middle, low, _] = number.to_be_bytes();
        [self.0, high, middle, low]
    }
}

impl PacketKey for Tag {
    fn encrypt(&self, number: u64, packet: &mut [u8], _: usize) {
        if let Some(tag) = packet.last_chunk_mut() {
            *tag = self.of(number);
        }
    }

    fn decrypt(&self, number: u64, _: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let length = payload.len().checked_sub(TAG).ok_or(CryptoError)?;
        if payload.last_chunk() != Some(&self.of(number)) {
            return Err(CryptoError);
        }
        payload.truncate(length);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}

fn key_pair(generation: u8) -> KeyPair<Box<dyn PacketKey>> {
    KeyPair { local: Box::new(Tag(generation)), remote: Box::new(Tag(generation)) }
}

fn first_keys() -> Keys {
    Keys { header: KeyPair { local: Box::new(Open), remote: Box::new(Open) }, packet: key_pair(0) }
}

/// One side of a handshake that nobody sees.
struct Session {
    peer: Arc<CircuitKeyed>,
    /// Key sets that quinn-proto still has to take: for Handshake, then for 1-RTT packets.
    key_sets: u8,
    generation: u8,
}

impl Session {
    fn new(peer: Arc<CircuitKeyed>) -> Self {
        Self { peer, key_sets: 2, generation: 0 }
    }
}

impl crypto::Session for Session {
    fn initial_keys(&self, _: &ConnectionId, _: Side) -> Keys {
        first_keys()
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.key_sets > 0
    }

    fn read_handshake(&mut self, _: &[u8]) -> Result<bool, TransportError> {
        Err(TransportError {
            code: TransportErrorCode::PROTOCOL_VIOLATION,
            frame: None,
            reason: "CRYPTO frame".into(),
        })
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(Some(self.peer.0))
    }

    fn write_handshake(&mut self, _: &mut Vec<u8>) -> Option<Keys> {
        self.key_sets = self.key_sets.checked_sub(1)?;
        Some(first_keys())
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.generation = self.generation.wrapping_add(1);
        Some(key_pair(self.generation))
    }

    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn export_keying_material(
        &self,
        _: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

/// Makes the session of one circuit; holds what its side believes of the other side.
struct CircuitKeyed(TransportParameters);

impl CircuitKeyed {
    fn new(side: Side, frozen: Frozen) -> Result<Self, TransportError> {
        Ok(Self(frozen.parameters(side)?))
    }
}

impl crypto::ClientConfig for CircuitKeyed {
    fn start_session(
        self: Arc<Self>,
        _: u32,
        _: &str,
        _: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        Ok(Box::new(Session::new(self)))
    }
}

impl crypto::ServerConfig for CircuitKeyed {
    fn initial_keys(&self, _: u32, _: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        Ok(first_keys())
    }

    fn retry_tag(&self, _: u32, _: &ConnectionId, _: &[u8]) -> [u8; 16] {
        [0; 16]
    }

    fn start_session(self: Arc<Self>, _: u32, _: &TransportParameters) -> Box<dyn crypto::Session> {
        Box::new(Session::new(self))
    }
}

/// Keys of stateless resets and tokens, of which there are none.
struct NoKey;

impl crypto::HmacKey for NoKey {
    fn sign(&self, _: &[u8], out: &mut [u8]) {
        out.fill(0);
    }

    fn signature_len(&self) -> usize {
        16
    }

    fn verify(&self, _: &[u8], _: &[u8]) -> Result<(), CryptoError> {
        Err(CryptoError)
    }
}

impl crypto::HandshakeTokenKey for NoKey {
    fn aead_from_hkdf(&self, _: &[u8]) -> Box<dyn crypto::AeadKey> {
        Box::new(Self)
    }
}

impl crypto::AeadKey for NoKey {
    fn seal(&self, _: &mut Vec<u8>, _: &[u8]) -> Result<(), CryptoError> {
        Err(CryptoError)
    }

    fn open<'a>(&self, _: &'a mut [u8], _: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        Err(CryptoError)
    }
}

/// Connection ids of no length: a circuit holds one connection.
struct NoId;

impl ConnectionIdGenerator for NoId {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&[])
    }

    fn cid_len(&self) -> usize {
        0
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
