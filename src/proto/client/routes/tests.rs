use super::*;

const PAUSE: Duration = Duration::from_secs(5);
const TOOK: Duration = Duration::from_millis(10);

fn route(host: u8) -> Route {
    let at = |port| SocketAddr::from(([10, 0, 0, host], port));
    Route { broker: at(1_517), target: at(1_514) }
}

const fn ms(n: u64) -> Time {
    Time::from_millis(100_000 + n)
}

/// Routes to these hosts, none of them tried.
fn to(hosts: &[u8]) -> Routes {
    let mut routes = Routes::default();
    let all: Vec<Route> = hosts.iter().map(|&host| route(host)).collect();
    assert!(routes.handle_routes(&all) && !routes.handle_routes(&all), "it is told once");
    routes
}

/// Routes to these hosts, with a link over the first of them.
fn linked(hosts: &[u8]) -> Routes {
    let mut routes = to(hosts);
    assert_eq!(routes.handle_attempt(ms(0), false), Some(route(hosts[0])));
    assert!(routes.handle_answered(ms(0), route(hosts[0]), TOOK));
    routes.handle_taken(route(hosts[0]));
    routes.handle_fit(route(hosts[0]));
    routes
}

fn attempts(routes: &mut Routes, at: Time, count: usize) -> Vec<Option<Route>> {
    (0..count).map(|_| routes.handle_attempt(at, false)).collect()
}

#[test]
fn without_a_link_all_are_tried_in_their_order_and_the_first_to_be_answered_is_taken() {
    let mut routes = to(&[1, 2]);
    assert_eq!(attempts(&mut routes, ms(0), 3), [1, 2, 1].map(|host| Some(route(host))));
    assert!(routes.handle_answered(ms(1), route(2), TOOK));
    assert_eq!(Routes::default().handle_attempt(ms(0), false), None, "no name is resolved yet");
}

#[test]
fn the_route_that_worked_is_tried_alone_until_it_has_failed() {
    let mut routes = linked(&[1, 2]);
    routes.handle_lost();
    assert_eq!(attempts(&mut routes, ms(0), 3), [Some(route(1)); 3]);
    routes.handle_failed(ms(2_000), route(1).broker, ms(0));
    assert_eq!(attempts(&mut routes, ms(2_000), 2), [Some(route(2)); 2], "those without a fault come first");
    routes.handle_failed(ms(4_000), route(2).broker, ms(2_000));
    assert_eq!(attempts(&mut routes, ms(4_000), 4), [1, 2, 1, 2].map(|host| Some(route(host))), "then all in turn");
}

#[test]
fn another_one_that_answers_after_an_outage_waits_for_the_route_that_worked() {
    let mut routes = linked(&[1, 2]);
    routes.handle_lost();
    routes.handle_failed(ms(2_000), route(1).broker, ms(0));
    assert!(!routes.handle_answered(ms(5_000), route(2), TOOK), "the network is back: home may be, too");
    assert_eq!(routes.handle_attempt(ms(5_000), false), Some(route(1)), "it is asked at once");
    routes.handle_failed(ms(5_001), route(1).broker, ms(4_900));
    assert!(!routes.is_taking(ms(5_001)), "that attempt began while nothing was known to be back");
    assert!(routes.handle_answered(ms(5_010), route(1), TOOK), "home");
    routes.handle_taken(route(1));
    assert_eq!(routes.waits_until(), None);
    routes.handle_lost();
    assert_eq!(routes.handle_attempt(ms(9_000), false), Some(route(1)));
}

#[test]
fn another_one_is_taken_when_the_route_that_worked_has_failed_once_more() {
    let mut routes = linked(&[1, 2]);
    routes.handle_lost();
    assert!(!routes.handle_answered(ms(5_000), route(2), TOOK));
    routes.handle_failed(ms(5_001), route(1).broker, ms(5_000));
    assert!(routes.is_taking(ms(5_001)), "refused at once");
    routes.handle_taken(route(2));
    routes.handle_lost();
    assert_eq!(routes.handle_attempt(ms(6_000), false), Some(route(2)), "it is home from here on");

    let mut routes = linked(&[1, 2]);
    routes.handle_lost();
    assert!(!routes.handle_answered(ms(5_000), route(2), Duration::from_secs(4)));
    assert_eq!(routes.waits_until(), Some(ms(13_000)), "as long as the path asks for");
    assert!(!routes.is_taking(ms(12_999)) && routes.is_taking(ms(13_000)));
}

#[test]
fn a_name_that_means_something_else_moves_nobody_who_is_still_in_it() {
    let mut routes = linked(&[1, 2]);
    routes.handle_routes(&[route(3), route(1)]);
    routes.handle_lost();
    assert_eq!(routes.handle_attempt(ms(0), false), Some(route(1)));
    routes.handle_routes(&[route(3), route(2)]);
    assert_eq!(attempts(&mut routes, ms(0), 2), [3, 2].map(|host| Some(route(host))));
    assert!(routes.handle_answered(ms(1), route(2), TOOK), "nobody is waited for who is not in it");
}

#[test]
fn a_route_on_which_remoted_does_not_receive_is_left_for_another_and_for_nothing_else() {
    let mut routes = linked(&[1, 2]);
    assert!(!routes.is_worth_leaving(ms(0)));
    routes.handle_misfit(ms(0), route(1));
    assert!(routes.is_worth_leaving(ms(0)));
    assert_eq!(routes.handle_attempt(ms(0), true), Some(route(2)), "the one in use answers: only another is of use");
    assert!(routes.handle_answered(ms(10), route(2), TOOK), "nobody waits for the route that does not fit");
    routes.handle_taken(route(2));
    routes.handle_misfit(ms(20), route(2));
    assert!(!routes.is_worth_leaving(ms(20)), "neither fits");
    assert_eq!(routes.handle_attempt(ms(20), true), None);
    assert!(routes.is_worth_leaving(ms(60_000)), "a minute later that may have changed");
    routes.handle_fit(route(2));
    assert!(!routes.is_worth_leaving(ms(60_000)));

    let mut alone = linked(&[1]);
    alone.handle_misfit(ms(0), route(1));
    assert!(!alone.is_worth_leaving(ms(90_000)));
}

#[test]
fn a_route_that_fails_in_an_outage_is_tried_again_while_the_one_in_use_does_not_fit() {
    let mut routes = linked(&[1, 2]);
    routes.handle_misfit(ms(0), route(1));
    routes.handle_failed(ms(10), route(2).broker, ms(0));
    assert!(routes.is_worth_leaving(ms(10)), "nothing goes over the one in use");
    assert_eq!(routes.handle_attempt(ms(10), true), Some(route(2)));
}

#[test]
fn who_refuses_is_let_alone_for_a_while_and_others_are_not() {
    let mut routes = linked(&[1, 2]);
    routes.handle_lost();
    routes.handle_refused(ms(0), route(1), PAUSE);
    assert_eq!(attempts(&mut routes, ms(0), 2), [Some(route(2)); 2]);
    assert!(routes.handle_answered(ms(1), route(2), TOOK), "it is not waited for either");
    routes.handle_refused(ms(1), route(2), PAUSE);
    assert_eq!((routes.handle_attempt(ms(2), false), routes.free_from()), (None, Some(ms(5_000))));
    assert_eq!(routes.handle_attempt(ms(5_000), false), Some(route(1)));
}

#[test]
fn whatever_takes_connections_and_says_nothing_counts_as_a_refusal_the_third_time() {
    let mut routes = to(&[1]);
    for _ in 0..2 {
        routes.handle_fruitless(ms(0), route(1), PAUSE);
        assert_eq!(
            routes.handle_attempt(ms(0), false),
            Some(route(1)),
            "a server that is being stopped does that, too"
        );
    }
    routes.handle_fruitless(ms(0), route(1), PAUSE);
    assert_eq!((routes.handle_attempt(ms(0), false), routes.free_from()), (None, Some(ms(5_000))));
    routes.handle_taken(route(1));
    routes.handle_fruitless(ms(6_000), route(1), PAUSE);
    assert_eq!(routes.handle_attempt(ms(6_000), false), Some(route(1)), "one that has answered is one of ours");
}

#[test]
fn two_targets_behind_one_server_fail_together_and_fit_apart() {
    let (first, second) = (route(1), Route { target: route(9).target, ..route(1) });
    let mut routes = Routes::default();
    routes.handle_routes(&[first, second, first, route(2)]);
    assert_eq!(attempts(&mut routes, ms(0), 4), [first, second, route(2), first].map(Some), "none is there twice");
    routes.handle_failed(ms(1), first.broker, ms(0));
    assert_eq!(attempts(&mut routes, ms(1), 2), [Some(route(2)); 2]);
    routes.handle_taken(first);
    routes.handle_misfit(ms(70_000), first);
    assert_eq!(routes.handle_attempt(ms(70_000), true), Some(second));
}
