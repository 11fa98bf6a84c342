//! `edgelat upload` on a network with another responder: a portal that requires a login, a web
//! server.

use edgelat_tests::Place;
use edgelat_tests::receiver::{Receiver, Reply};

use crate::upload::{has_each_once, recorded, sent, upload};

#[test]
fn what_a_portal_answers_counts_for_nothing_and_everything_arrives_behind_it() {
    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 20);
    let receiver = Receiver::start(&[
        Reply::Page(200, "text/html", "<html>log in</html>"),
        Reply::Page(203, "application/json", "{\"login\": true}"),
    ]);
    sent(&upload(&place, &receiver.url()), &["status 200 with text/html", "sent 20 intervals"]);
    has_each_once(&receiver.books(), &records);
    assert_eq!(receiver.log().len(), 3);

    let place = Place::new();
    place.configure("", &[]);
    let records = recorded(&place, 20);
    let receiver = Receiver::start(&[]);
    receiver.always(Reply::Page(302, "text/html", "<html>elsewhere</html>"));
    let outcome = upload(&place, &receiver.url());
    assert_ne!(outcome.status.code(), Some(0), "{outcome:#?}");
    // After the login.
    receiver.always(Reply::Take);
    sent(&upload(&place, &receiver.url()), &["sent 20 intervals"]);
    has_each_once(&receiver.books(), &records);
}
