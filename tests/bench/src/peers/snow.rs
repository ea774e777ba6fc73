//! snow: bare Noise XX without an identity beside the static keys, which is less than we and libp2p prove.

use snow::{Builder, Keypair};

pub(crate) const NAME: &str = "snow (Noise XX alone, no identity)";
const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
const LONGEST: usize = 256;

fn builder() -> Builder<'static> {
    Builder::new(PATTERN.parse().expect("a pattern"))
}

/// The static keys of both sides.
pub(crate) struct Statics([Keypair; 2]);

impl Statics {
    pub(crate) fn new() -> Self {
        Self([(); 2].map(|()| builder().generate_keypair().expect("the system gives entropy")))
    }

    /// A handshake of both sides over byte buffers.
    pub(crate) fn handshake(&self) {
        let [a, b] = &self.0;
        let mut first = builder().local_private_key(&a.private).and_then(Builder::build_initiator).expect("a state");
        let mut second = builder().local_private_key(&b.private).and_then(Builder::build_responder).expect("a state");
        let (mut message, mut payload) = ([0; LONGEST], [0; LONGEST]);
        for turn in 0..3 {
            let (from, to) = if turn % 2 == 0 { (&mut first, &mut second) } else { (&mut second, &mut first) };
            let count = from.write_message(&[], &mut message).expect("its turn");
            to.read_message(&message[..count], &mut payload).expect("its turn");
        }
        assert!(first.into_transport_mode().is_ok() && second.into_transport_mode().is_ok());
    }
}
