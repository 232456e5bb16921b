//! The first bytes of a stream.

use circuit::request::{Host, MAX_REQUEST, Request};
use wire::Writer;

/// A request that is read is written as it was, whatever follows it, and no prefix of it is a request.
pub fn request(data: &[u8]) {
    let Ok(Some((request, length))) = Request::read(data) else { return };
    let mut buffer = [0; MAX_REQUEST];
    let mut writer = Writer::new(&mut buffer);
    request.write(&mut writer).unwrap();
    let written = writer.written();
    assert_eq!(&buffer[..written], &data[..length]);
    assert_eq!(Request::read(&data[..length]), Ok(Some((request.clone(), length))));
    for cut in 0..length {
        assert_eq!(Request::read(&data[..cut]), Ok(None), "a prefix of {cut} bytes");
    }
    let mut short = vec![0; written - 1];
    request.write(&mut Writer::new(&mut short)).unwrap_err();
    if let Host::Name(name) = &request.target.host {
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()) && (1..256).contains(&name.len()));
    }
}
