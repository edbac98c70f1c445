//! Requests whose caller leaves while they are being admitted.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::*;

/// Admission lets others have their turn between the two halves of writing it down: whoever leaves there costs nothing, and is a row.
#[tokio::test]
async fn whoever_leaves_during_the_admission_is_a_row_and_charged_nothing() {
    for database in databases().await {
        let (db, folder) = (&database.db, folder());
        limit(db, "tokens_per_day", 100).await;
        limit(db, "parallel_requests", 1).await;
        let house = House::open(db.clone(), folder.path().join("j"), &config()).await;
        answered(house.admit(1, 1).await.expect("leases are there after it"), 1, 1);
        for _ in 0..10 {
            let mut admission = pin!(house.admit(50, 48));
            // The leases may have to be asked for first.
            while house.tasks.journal().stats().open.load(Ordering::Relaxed) == 0 {
                let polled = admission.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(matches!(polled, Poll::Pending), "others have their turn");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        answered(house.admit(50, 48).await.expect("all of it is free again"), 50, 48);
        house.close().await;
        assert_eq!((number(db, USED_TODAY).await, number(db, ROWS).await), (100, 12));
        assert_eq!(
            number(db, "SELECT COUNT(*) FROM request_ledger WHERE charged_requests > 0").await,
            2
        );
        assert_eq!(number(db, LEASED).await, 0);
        let left = std::fs::read_dir(folder.path().join("j")).expect("there").count();
        assert_eq!(left, 0, "the journal is deleted when the database has it all");
    }
}
