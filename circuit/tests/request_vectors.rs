//! Requests and bodies are those of the independent reference (docs/spec/vectors/request.json).
#![expect(clippy::unwrap_used, reason = "a vector that cannot be read fails the test")]

use circuit::cell::{self, BODY, BodyType, MAX_DATA};
use circuit::error::Malformed;
use circuit::request::{Host, Kind, MAX_REQUEST, Request, Target};
use serde_json::Value;
use wire::Writer;

fn number<T: TryFrom<u64, Error: core::fmt::Debug>>(value: &Value) -> T {
    value.as_u64().unwrap().try_into().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn list<'a>(file: &'a Value, name: &str) -> &'a [Value] {
    file[name].as_array().unwrap()
}

fn file() -> Value {
    serde_json::from_str(include_str!("../../docs/spec/vectors/request.json")).unwrap()
}

const BODY_TYPES: [BodyType; 5] =
    [BodyType::Padding, BodyType::Quic, BodyType::Control, BodyType::Ratchet, BodyType::Count];

#[test]
fn requests_are_those_of_the_reference() {
    let kinds = [Kind::Connect, Kind::Udp, Kind::Resolve, Kind::Ping, Kind::Directory];
    for json in list(&file(), "requests") {
        let name = format!("{} {}", json["name"], json["address"]);
        let address = json["address"].as_str().unwrap();
        let host = match address.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_) => Host::name(address.as_bytes()).expect(&name),
        };
        let kind = kinds[number::<usize>(&json["kind"]) - 1];
        let request = Request { kind, target: Target { host, port: number(&json["port"]) } };
        let expected = bytes(&json["request"]);
        let mut buffer = [0; MAX_REQUEST];
        let mut w = Writer::new(&mut buffer);
        request.write(&mut w).expect(&name);
        let length = w.written();
        assert_eq!(buffer[..length], expected, "{name}");
        // Data may follow at once.
        let read = Request::read(&[&expected[..], b"data"].concat()).expect(&name);
        assert_eq!(read, Some((request, expected.len())), "{name}");
    }
}

#[test]
fn body_heads_are_those_of_the_reference() {
    for json in list(&file(), "bodies") {
        let (kind, length) = (BODY_TYPES[number::<usize>(&json["type"])], number(&json["length"]));
        let mut body = [0xaa; BODY];
        let written = cell::write_body(&mut body, kind, |data| {
            data[..length].fill(7);
            Some(length)
        });
        assert_eq!(written, Ok(Some(length)), "{kind:?} {length}");
        assert_eq!(body[..2], bytes(&json["head"]), "{kind:?} {length}");
        assert_eq!(cell::read_body(&body), Ok((kind, &[7; MAX_DATA][..length])), "{kind:?} {length}");
    }
}

#[test]
fn refused_bodies_are_refused() {
    // circuit.cell.5
    for json in list(&file(), "bodies_refused") {
        let why = json["why"].as_str().unwrap();
        let mut body = [0; BODY];
        body[..2].copy_from_slice(&bytes(&json["head"]));
        let expected = match why {
            "zeros are not zero" => {
                body[BODY - 1] = 1;
                Malformed("body padding")
            }
            "type is not expected" => Malformed("body type"),
            _ => Malformed("body length"),
        };
        assert_eq!(cell::read_body(&body), Err(expected), "{why}");
    }
}
