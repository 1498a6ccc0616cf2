import java.sql.Connection;

/**
 * Something a driver should be able to do.
 *
 * @param name dotted and unique: the family, then what is expected
 * @param body throws where it is not so
 */
record Check(String name, Body body) {

  /** What is tried, on a connection of its own that is closed afterwards. */
  interface Body {
    void run(Connection connection) throws Exception;
  }

  static Check check(String name, Body body) {
    return new Check(name, body);
  }
}
