use super::*;

#[test]
fn what_a_client_says_of_itself_is_believed_within_reason() {
    let boast =
        Ping { unsent: 1, next_cost: u32::MAX, unconfirmed_cost: u64::MAX, lease_ms: u32::MAX, ..Ping::default() };
    let request = request(1, IpAddr::from([10, 0, 0, 1]), &boast);
    assert!(request.wants);
    assert_eq!(request.next_cost, u64::from(buffer_cost(DATAGRAM_BYTES_MAX)));
    assert_eq!((request.unconfirmed_cost, request.lease), (CLAIM_BYTES_MAX, LEASE_MAX));
}
