//! A model of a few bytes, the same whatever version of a library a machine has.

/// A field of a protobuf message that is text, bytes or a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(content.len()).unwrap_or_else(|_| panic!("a field of {} bytes", content.len()))], content]
        .concat()
}

/// A field of a protobuf message that is a small number.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// `y = Identity(x)` for one float.
#[must_use]
pub fn identity() -> Vec<u8> {
    let shape = field(2, &field(1, &number(1, 1)));
    let value = |name: &[u8]| [field(1, name), field(2, &field(1, &[number(1, 1), shape.clone()].concat()))].concat();
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Identity")].concat();
    let graph = [field(1, &node), field(2, b"g"), field(11, &value(b"x")), field(12, &value(b"y"))].concat();
    [number(1, 8), field(7, &graph), field(8, &number(2, 17))].concat()
}
