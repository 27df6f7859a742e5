//! Databases: every operation of the closed list by its own word, and requests that nobody answers.

use weir::telemetry::wire::{DbOperation as Op, DbOutcome, L7Protocol, Role};

use crate::{
    confusion::Listener,
    exchange::Exchange,
    kafka_cases as kafka, mysql_cases as mysql, postgresql_cases as postgresql,
    redis_cases::command,
    stream::Side::{self, Client, Server},
};

const OK: DbOutcome = DbOutcome::DB_OK;
const UNTOLD: DbOutcome = DbOutcome::DB_UNTOLD;
const NO_RESPONSE: DbOutcome = DbOutcome::DB_NO_RESPONSE;
const REDIS: L7Protocol = L7Protocol::L7_REDIS;
const POSTGRESQL: L7Protocol = L7Protocol::L7_POSTGRESQL;
const MYSQL: L7Protocol = L7Protocol::L7_MYSQL;
const KAFKA: L7Protocol = L7Protocol::L7_KAFKA;

/// Operations with the words that ask for them.
macro_rules! words {
    ($($op:ident $word:literal)*) => { [$((Op::$op, $word)),*] };
}

/// And with the numbers of Kafka's keys.
const KEYS: [(Op, u16); 26] = words![
    DB_PRODUCE 0 DB_KAFKA_FETCH 1 DB_LIST_OFFSETS 2 DB_METADATA 3 DB_OFFSET_COMMIT 8 DB_OFFSET_FETCH 9
    DB_FIND_COORDINATOR 10 DB_JOIN_GROUP 11 DB_HEARTBEAT 12 DB_LEAVE_GROUP 13 DB_SYNC_GROUP 14
    DB_DESCRIBE_GROUPS 15 DB_LIST_GROUPS 16 DB_SASL_HANDSHAKE 17 DB_API_VERSIONS 18 DB_CREATE_TOPICS 19
    DB_DELETE_TOPICS 20 DB_INIT_PRODUCER_ID 22 DB_ADD_PARTITIONS_TO_TXN 24 DB_ADD_OFFSETS_TO_TXN 25
    DB_END_TXN 26 DB_TXN_OFFSET_COMMIT 28 DB_DESCRIBE_CONFIGS 32 DB_SASL_AUTHENTICATE 36
    DB_CONSUMER_GROUP_HEARTBEAT 68 DB_OTHER 127
];

const COMMANDS: [(Op, &str); 41] = words![
    DB_AUTH "AUTH" DB_CLIENT "CLIENT" DB_CONFIG "CONFIG" DB_DEL "DEL" DB_EVAL "EVAL"
    DB_EVALSHA "EVALSHA" DB_EXEC "EXEC" DB_EXISTS "EXISTS" DB_EXPIRE "EXPIRE" DB_GET "GET" DB_HDEL "HDEL"
    DB_HELLO "HELLO" DB_HGET "HGET" DB_HGETALL "HGETALL" DB_HMGET "HMGET" DB_HSET "HSET" DB_INCR "INCR"
    DB_INFO "INFO" DB_LPOP "LPOP" DB_LPUSH "LPUSH" DB_LRANGE "LRANGE" DB_MGET "MGET" DB_MSET "MSET"
    DB_MULTI "MULTI" DB_PING "PING" DB_PUBLISH "PUBLISH" DB_RPOP "RPOP" DB_RPUSH "RPUSH" DB_SADD "SADD"
    DB_SCAN "SCAN" DB_SELECT "SELECT" DB_SET "SET" DB_SMEMBERS "SMEMBERS" DB_SPOP "SPOP" DB_SREM "SREM"
    DB_TTL "TTL" DB_XADD "XADD" DB_XREADGROUP "XREADGROUP" DB_ZADD "ZADD" DB_ZPOPMIN "ZPOPMIN"
    DB_ZRANGE "ZRANGE"
];

const STATEMENTS: [(Op, &str); 42] = words![
    DB_ALTER "ALTER" DB_ANALYZE "ANALYZE" DB_BEGIN "BEGIN" DB_CALL "CALL" DB_CLOSE "CLOSE"
    DB_COMMIT "COMMIT" DB_COMMIT "END" DB_COPY "COPY" DB_CREATE "CREATE" DB_DEALLOCATE "DEALLOCATE"
    DB_DECLARE "DECLARE" DB_DELETE "DELETE" DB_DISCARD "DISCARD" DB_DO "DO" DB_DROP "DROP"
    DB_EXECUTE "EXECUTE" DB_EXPLAIN "EXPLAIN" DB_FETCH "FETCH" DB_GRANT "GRANT" DB_INSERT "INSERT"
    DB_LISTEN "LISTEN" DB_LOAD "LOAD" DB_LOCK "LOCK" DB_MERGE "MERGE" DB_MOVE "MOVE" DB_NOTIFY "NOTIFY"
    DB_PREPARE "PREPARE" DB_RELEASE "RELEASE" DB_REPLACE "REPLACE" DB_ROLLBACK "ROLLBACK"
    DB_ROLLBACK "ABORT" DB_SAVEPOINT "SAVEPOINT" DB_SELECT "SELECT" DB_SET "SET" DB_SHOW "SHOW"
    DB_TRUNCATE "TRUNCATE" DB_UPDATE "UPDATE" DB_USE "USE" DB_VACUUM "VACUUM" DB_WITH "WITH"
    DB_OTHER "WIT" DB_OTHER "DISCARDS"
];

/// An exchange and what it is to count: nothing else may be counted.
fn assert_counted(exchange: &Exchange) {
    let mut listener = Listener::new();
    for role in [Role::ROLE_SERVER, Role::ROLE_CLIENT] {
        let counts = listener.hear_as(role, exchange.port, &exchange.turns).above_tcp();
        assert_eq!(counts, exchange.expected(role), "{}, pod is {role:?}", exchange.name);
    }
    assert_eq!(listener.kernel.gaps(), [].into(), "{}", exchange.name);
}

/// Each word once in the case of the list and once in small letters.
fn both_cases(words: &[(Op, &str)]) -> Vec<(Op, String)> {
    let as_is = words.iter().map(|(op, word)| (*op, (*word).to_owned()));
    let small = words.iter().map(|(op, word)| (*op, word.to_lowercase()));
    as_is.chain(small).collect()
}

/// The login, one turn of requests and one of answers, and what is counted of them.
fn exchange(
    protocol: L7Protocol,
    login: Vec<(Side, Vec<u8>)>,
    asked: &[(Op, DbOutcome)],
    requests: &[Vec<u8>],
    responses: &[Vec<u8>],
) -> Exchange {
    let turns = [login, vec![(Client, requests.concat()), (Server, responses.concat())]].concat();
    let exchange = Exchange::of("operations", turns, protocol);
    asked.iter().fold(exchange, |all, &(op, outcome)| all.asked(protocol, op, outcome, 1))
}

#[test]
fn every_command_of_redis_is_known_by_its_name() {
    let words = both_cases(&COMMANDS);
    let asked: Vec<_> = words.iter().map(|(op, _)| (*op, OK)).collect();
    let requests: Vec<_> = words.iter().map(|(_, word)| command(&[word]).into()).collect();
    let responses = vec![b"+OK\r\n".to_vec(); words.len()];
    assert_counted(&exchange(REDIS, vec![], &asked, &requests, &responses));
}

#[test]
fn every_statement_is_known_by_its_first_word() {
    let words = both_cases(&STATEMENTS);
    let asked: Vec<_> = words.iter().map(|(op, _)| (*op, OK)).collect();

    let queries: Vec<_> =
        words.iter().map(|(_, word)| mysql::query(&format!("{word} x"))).collect();
    let answers = vec![mysql::ok(0); words.len()];
    assert_counted(&exchange(MYSQL, mysql::login(), &asked, &queries, &answers));

    // The server's word for it counts, and not the client's.
    let queries = vec![postgresql::query("x"); words.len()];
    let answers: Vec<_> =
        words.iter().map(|(_, word)| postgresql::completed(&format!("{word} 1"))).collect();
    let login = vec![(Client, postgresql::startup()), (Server, postgresql::welcome())];
    assert_counted(&exchange(POSTGRESQL, login, &asked, &queries, &answers));
}

#[test]
fn every_request_of_kafka_s_is_known_by_its_key() {
    let request = |at: usize, key: u16| {
        // A Produce tells whether it waits for an answer: behind its head, with acks of all.
        let body = if key == 0 { &b"\xff\xff\0\0\0\0"[..] } else { b"" };
        kafka::request(key, 0, u32::try_from(at).unwrap(), Some("c"), body)
    };
    // Too short to have an error's code.
    let asked: Vec<_> = KEYS.iter().map(|(op, _)| (*op, UNTOLD)).collect();
    let requests: Vec<_> =
        KEYS.iter().enumerate().map(|(at, (_, key))| request(at, *key)).collect();
    let responses: Vec<_> =
        (0..KEYS.len()).map(|at| kafka::response(u32::try_from(at).unwrap(), b"")).collect();
    assert_counted(&exchange(KAFKA, vec![], &asked, &requests, &responses));
}

/// The connection ends before the answer does: nobody can know how it went.
#[test]
fn what_is_not_answered_is_counted_as_such() {
    let ping = command(&["PING"]).into_bytes();
    let get = command(&["GET", "k"]).into_bytes();
    let versions = kafka::request(18, 0, 1, Some("c"), b"");
    let redis = vec![(Client, ping), (Server, b"+PONG\r\n".to_vec())];
    let kafka = vec![(Client, versions), (Server, kafka::response(1, b"\0\0\0\0\0\0"))];
    let session = vec![(Client, postgresql::startup()), (Server, postgresql::welcome())];
    let metadata = kafka::request(3, 0, 2, Some("c"), b"\0\0\0\0");
    let select = postgresql::query("select 1");
    let cases = [
        (REDIS, redis, Some(Op::DB_PING), Op::DB_GET, get, &b"$5\r\nval"[..]),
        (POSTGRESQL, session, None, Op::DB_SELECT, select, b"T\0\0\0\x06\0\0"),
        (MYSQL, mysql::login(), None, Op::DB_SELECT, mysql::query("select 1"), b"\x01\0\0\x01\x01"),
        (
            KAFKA,
            kafka,
            Some(Op::DB_API_VERSIONS),
            Op::DB_METADATA,
            metadata,
            b"\0\0\0\x09\0\0\0\x02\0",
        ),
    ];
    for (protocol, login, first, op, request, part) in cases {
        for answer in [&b""[..], part] {
            let asked: Vec<_> =
                first.map(|op| (op, OK)).into_iter().chain([(op, NO_RESPONSE)]).collect();
            let (request, answer) = ([request.clone()], [answer.to_vec()]);
            assert_counted(&exchange(protocol, login.clone(), &asked, &request, &answer));
        }
    }
}
