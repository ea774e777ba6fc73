use core::net::SocketAddr;

use peerage_core::{Class, CloseReason, Command, Layer, Message, NetworkId};
use peerage_wire::{
    Envelope, Fragmenter, Magic, Preamble, RecordKind, begin_sealed, compress, encode_frame, finish_sealed, payload,
    put_record, varint,
};

use crate::document::{Vector, hold};

fn varints() -> Vector {
    [0, 1, 127, 128, 300, 16_383, 16_384, u64::MAX].into_iter().fold(Vector::new("varint"), |vector, number| {
        let mut bytes = Vec::new();
        varint::put(&mut bytes, number);
        vector.hex(&number.to_string(), bytes)
    })
}

fn payloads() -> Vector {
    let (v4, v6) = ("192.0.2.1:30303", "[2001:db8::1]:30303");
    let addr = |text: &str| text.parse::<SocketAddr>().expect("an address");
    Vector::new("payload")
        .hex("u8 200", payload::to_bytes(&200u8))
        .hex("u16 200", payload::to_bytes(&200u16))
        .hex("u64 300", payload::to_bytes(&300u64))
        .hex("option of u64: none", payload::to_bytes(&None::<u64>))
        .hex("option of u64: 300", payload::to_bytes(&Some(300u64)))
        .hex("text \"é\"", payload::to_bytes("é"))
        .hex("list of u16: 1, 32768", payload::to_bytes(&[1u16, 0x8000][..]))
        .hex("4 bytes 01020304", payload::to_bytes(&[1u8, 2, 3, 4]))
        .hex("struct of u64 300 and text \"a\"", payload::to_bytes(&(300u64, "a")))
        .hex(v4, payload::to_bytes(&addr(v4)))
        .hex(v6, payload::to_bytes(&addr(v6)))
}

fn refused() -> Vector {
    let error = |result: Result<u64, payload::PayloadError>| format!("{:?}", result.expect_err("refused"));
    let text = |bytes: &[u8]| format!("{:?}", payload::from_bytes::<String>(bytes, 9).expect_err("refused"));
    Vector::new("payload-refused")
        .text("8100 as u64", error(payload::from_bytes(&[0x81, 0], 9)))
        .text("0100 as u64", error(payload::from_bytes(&[1, 0], 9)))
        .text("80 as u64", error(payload::from_bytes(&[0x80], 9)))
        .text("8001 as u64, 1 byte allowed", error(payload::from_bytes(&[0x80, 1], 1)))
        .text("810061 as text", text(&[0x81, 0, b'a']))
        .text("01ff as text", text(&[1, 0xff]))
}

fn records() -> Vector {
    let network = NetworkId::from_bytes(core::array::from_fn(|i| i as u8));
    let preamble = Preamble { version_min: 1, version_max: 1, network, pattern: 1, suite: 1, flags: 0 };
    let record = |kind, payload: &[u8]| {
        let mut out = Vec::new();
        put_record(&mut out, Magic::DEV, kind, |out| out.extend_from_slice(payload));
        out
    };
    Vector::new("records")
        .hex("PREAMBLE", record(RecordKind::Preamble, &preamble.encode()))
        .hex("HANDSHAKE of abcdef", record(RecordKind::Handshake, &[0xab, 0xcd, 0xef]))
        .hex("REFUSE wrong_network", record(RecordKind::Refuse, &[CloseReason::WrongNetwork.code()]))
}

const LOOKUP: Command = Command::new(Layer::Discovery, 1, Class::Signal);
const BLOCK: Command = Command::new(Layer::Application, 31, Class::Bulk);

fn frames() -> Vector {
    let frame = |message: Message, envelope| {
        let mut out = Vec::new();
        encode_frame(&message, envelope, &mut out);
        out
    };
    Vector::new("frames")
        .text("command LOOKUP", format_args!("0x{:04x}", LOOKUP.number()))
        .text("command BLOCK", format_args!("0x{:04x}", BLOCK.number()))
        .hex("LOOKUP notification, head 0102", frame(Message::new(LOOKUP, vec![1, 2]), Envelope::Notification))
        .hex("LOOKUP request 300, head empty", frame(Message::new(LOOKUP, ""), Envelope::Request(300)))
        .hex(
            "BLOCK response 0, head 01, body aabb",
            frame(Message::with_body(BLOCK, vec![1], vec![0xaa, 0xbb]), Envelope::Response(0)),
        )
        .hex(
            "BLOCK notification, head and body empty",
            frame(Message::with_body(BLOCK, "", ""), Envelope::Notification),
        )
}

fn fragments() -> Vector {
    let message = Message::with_body(BLOCK, vec![0x11; 20], vec![0x22; 50]);
    let mut sender = Fragmenter::new(message, Envelope::Request(5));
    let mut piece = || {
        let mut out = Vec::new();
        sender.fill(40, &mut out);
        out
    };
    let vector = Vector::new("fragments").hex("first", piece()).hex("next", piece()).hex("last", piece());
    assert!(sender.is_done());
    vector
}

fn compressed() -> Vector {
    let message = Message::with_body(BLOCK, vec![1], vec![0x22; 1100]);
    let packed = compress::pack(message.body.as_ref().expect("it has one")).expect("all the same");
    let frame = |sender: &mut Fragmenter, room| {
        let mut out = Vec::new();
        sender.fill(room, &mut out);
        out
    };
    let mut sender = Fragmenter::new(message, Envelope::Response(0));
    sender.send_packed(packed.into());
    let whole = frame(&mut sender.clone(), 100);
    let vector = Vector::new("compressed").hex("whole", whole);
    let vector = vector.hex("first", frame(&mut sender, 24)).hex("last", frame(&mut sender, 24));
    assert!(sender.is_done());
    vector
}

fn sealed() -> Vector {
    let mut record = Vec::new();
    let start = begin_sealed(&mut record, RecordKind::Data);
    encode_frame(&Message::new(LOOKUP, vec![1, 2]), Envelope::Notification, &mut record);
    encode_frame(&Message::new(LOOKUP, vec![3]), Envelope::Notification, &mut record);
    let body = finish_sealed(&mut record, start);
    Vector::new("sealed").hex("length", &record[..body]).hex("plaintext", &record[body..])
}

#[test]
fn the_vectors_of_wire_are_what_the_code_writes() {
    hold("wire", &[varints(), payloads(), refused(), records(), sealed(), frames(), fragments(), compressed()]);
}
