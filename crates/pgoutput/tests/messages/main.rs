//! Messages as the Postgres manual lays them out, broken ones, and arbitrary ones.

mod arbitrary;
mod examples;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use walcast_pgoutput::{DecodeError, Message, Value, decode, encode};

use crate::arbitrary::message;
use crate::examples::{messages, row_messages};

#[test]
fn bytes_of_the_manual_both_ways() {
    for (name, bytes, message) in messages() {
        assert_eq!(
            decode(Bytes::from_static(bytes)).as_ref(),
            Ok(&message),
            "{name}"
        );
        assert_eq!(encoded(&message), bytes, "{name}");
    }
}

#[test]
fn every_proper_prefix_is_an_error() {
    for (name, bytes, _) in messages() {
        for end in 0..bytes.len() {
            let error = decode(Bytes::from_static(&bytes[..end])).expect_err(name);
            let expected = matches!(error, DecodeError::Truncated { .. } | DecodeError::BadValue);
            assert!(expected, "{name} cut at {end}: {error}");
        }
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    for (name, bytes, _) in messages() {
        for count in 1..4 {
            let longer = [bytes, &b"N\0\0"[..count]].concat();
            assert_eq!(
                decode(longer.into()),
                Err(DecodeError::TrailingBytes { count }),
                "{name}"
            );
        }
    }
}

#[test]
fn lies_are_errors() {
    for (name, bytes, error) in [
        (
            "unknown kind",
            &b"Z\0\0"[..],
            DecodeError::UnknownKind { kind: b'Z' },
        ),
        (
            "a kind of protocol version 2, which was not asked for",
            b"S\0\0\x02\xF1\x01",
            DecodeError::UnknownKind { kind: b'S' },
        ),
        (
            "more columns than values",
            b"I\0\0\x40\x07N\xFF\xFFnn",
            DecodeError::BadValue,
        ),
        (
            "fewer columns than values",
            b"I\0\0\x40\x07N\0\x01nn",
            DecodeError::TrailingBytes { count: 1 },
        ),
        (
            "a value longer than the message",
            b"I\0\0\x40\x07N\0\x01t\0\0\0\x02x",
            DecodeError::BadValue,
        ),
        (
            "the longest value there is",
            b"I\0\0\x40\x07N\0\x01t\x7F\xFF\xFF\xFFx",
            DecodeError::BadValue,
        ),
        (
            "a negative length",
            b"I\0\0\x40\x07N\0\x01t\xFF\xFF\xFF\xFFx",
            DecodeError::BadValue,
        ),
        (
            "a negative length of binary",
            b"I\0\0\x40\x07N\0\x01b\x80\0\0\0x",
            DecodeError::BadValue,
        ),
        (
            "an unknown kind of value",
            b"I\0\0\x40\x07N\0\x01x\0\0\0\0",
            DecodeError::BadValue,
        ),
        (
            "an insert of an old row",
            b"I\0\0\x40\x07K\0\x01n",
            DecodeError::UnexpectedByte {
                what: "the row of an insert",
                byte: b'K',
            },
        ),
        (
            "an update with two old rows",
            b"U\0\0\x40\x07K\0\x01nO\0\x01nN\0\x01n",
            DecodeError::UnexpectedByte {
                what: "the new row of an update",
                byte: b'O',
            },
        ),
        (
            "a delete with a new row",
            b"D\0\0\x40\x07N\0\x01n",
            DecodeError::UnexpectedByte {
                what: "the old row of a delete",
                byte: b'N',
            },
        ),
        (
            "an unknown identity",
            b"R\0\0\x40\x07\0t\0x\0\0",
            DecodeError::UnexpectedByte {
                what: "replica identity",
                byte: b'x',
            },
        ),
        (
            "65,535 columns, none there",
            b"R\0\0\x40\x07\0t\0d\xFF\xFF",
            DecodeError::Truncated {
                what: "column flags",
            },
        ),
        (
            "4 billion truncated tables, one there",
            b"T\xFF\xFF\xFF\xFF\0\0\0\x40\x07",
            DecodeError::Truncated {
                what: "relation id",
            },
        ),
        (
            "content longer than the message",
            b"M\0\0\0\0\0\0\0\0\x01p\0\xFF\xFF\xFF\xFFx",
            DecodeError::Truncated { what: "content" },
        ),
        (
            "a name without an end",
            b"Y\0\0\x40\x0Apublic\0mood",
            DecodeError::Truncated { what: "type name" },
        ),
    ] {
        assert_eq!(decode(Bytes::from_static(bytes)), Err(error), "{name}");
    }
}

#[test]
fn names_and_rows_are_slices_of_the_message() {
    let (_, raw, _) = row_messages().remove(0);
    let raw = Bytes::from_static(raw);
    let range = raw.as_ptr_range();
    let Ok(Message::Insert(insert)) = decode(raw.clone()) else {
        panic!("an insert");
    };
    let Some(Value::Text(text)) = insert.new.value(0) else {
        panic!("a text");
    };
    assert!(range.contains(&text.as_ptr()));
}

#[test]
fn a_row_is_walked_in_order_and_never_past_its_end() {
    let row = encode::tuple([Value::Text(b"a"), Value::Null]);
    assert_eq!((row.len(), row.is_empty(), row.size_bytes()), (2, false, 7));
    assert_eq!(row.values().len(), 2);
    let mut walk = row.values();
    assert_eq!((walk.next(), walk.len()), (Some(Value::Text(b"a")), 1));
    let values: Vec<_> = row.values().collect();
    assert_eq!(values, [Value::Text(b"a"), Value::Null]);
    assert_eq!(row.value(1), Some(Value::Null));
    assert_eq!(row.value(2), None);
    assert!(encode::tuple([]).is_empty());
}

#[test]
fn what_is_printed_of_a_row_has_no_values() {
    let row = encode::tuple([
        Value::Text(b"secret"),
        Value::Binary(b"secret"),
        Value::Null,
    ]);
    assert_eq!(format!("{row:?}"), "Tuple(3 columns, 23 bytes)");
    for (name, _, message) in row_messages() {
        assert!(format!("{message:?}").contains("columns, "), "{name}");
    }
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(message in message()) {
        prop_assert_eq!(decode(encoded(&message).freeze()), Ok(message));
    }

    #[test]
    fn a_prefix_of_any_message_is_an_error(message in message(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&message);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(decode(bytes.freeze()).is_err());
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(
        kind in prop::sample::select(b"BCORYIUDTM".to_vec()),
        rest in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let _ = decode([&[kind], &rest[..]].concat().into());
    }
}

fn encoded(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    encode::message(message, &mut out);
    out
}
