//! What is reported as persisted is there after any crash.

use std::path::Path;
use std::sync::{Arc, Mutex};

use payments::store::Store;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::disk::{Disk, Model, Shared, below, changes, contents};

// pay.persist.1
#[test]
fn what_is_reported_as_persisted_survives_ten_thousand_power_failures() {
    let seed = 7;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = Vec::new();
    // What was reported, and what was being written when the power failed.
    let (mut sure, mut under_way) = (Model::new(), None::<Model>);
    let (mut reported, mut finished) = (0, 0);
    for point in 0..10_000 {
        let power = 1 + below(&mut rng, 70);
        let disk = Shared(Arc::new(Mutex::new(Disk::new(bytes, power))));
        if let Ok(store) = Store::with_backend(Path::new("test"), disk.clone()) {
            let found = contents(&store);
            if under_way.as_ref() == Some(&found) {
                sure = found;
                finished += 1;
            } else {
                assert!(
                    found == sure,
                    "seed {seed}, failure {point}: a reported batch is gone, or half of one is there"
                );
            }
            under_way = None;
            for commit in 0.. {
                assert!(
                    commit < 200,
                    "seed {seed}, failure {point}: it is reported, and never goes to the disk"
                );
                let mut next = sure.clone();
                let batch = changes(&mut rng, &mut next);
                if store.commit(&batch).is_err() {
                    under_way = Some(next);
                    break;
                }
                reported += 1;
                sure = next;
            }
        }
        bytes = disk.disk().survivors(&mut rng);
    }
    println!("{reported} batches reported, {finished} more were written when the power failed");
    // Else the power always failed in the same place.
    assert!(reported > 5_000 && finished > 20);
}
