import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.Statement;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.hive.metastore.HiveMetaStore;
import org.apache.hadoop.hive.metastore.conf.MetastoreConf;
import org.apache.hadoop.hive.metastore.security.HadoopThriftAuthBridge;

/** Hive's metastore over a database in memory, which the script that is given has made. */
public final class HiveMetastore {
  private static final String DATABASE = "jdbc:derby:memory:metastore;create=true";

  private HiveMetastore() {}

  /** Serves on a free port of this machine, says on which, and ends with its standard input. */
  public static void main(String[] args) throws Exception {
    makeTables(Path.of(args[0]));
    Configuration settings = MetastoreConf.newMetastoreConf();
    Map.of(
            MetastoreConf.ConfVars.CONNECT_URL_KEY, DATABASE,
            MetastoreConf.ConfVars.CONNECTION_DRIVER, "org.apache.derby.jdbc.EmbeddedDriver",
            MetastoreConf.ConfVars.WAREHOUSE, "file://" + args[1],
            MetastoreConf.ConfVars.EVENT_LISTENERS, "",
            MetastoreConf.ConfVars.TRANSACTIONAL_EVENT_LISTENERS, "")
        .forEach((key, value) -> MetastoreConf.setVar(settings, key, value));
    // As Iceberg's documentation wants it: columns may come, go and change.
    MetastoreConf.setBoolVar(
        settings, MetastoreConf.ConfVars.DISALLOW_INCOMPATIBLE_COL_TYPE_CHANGES, false);
    int port;
    try (ServerSocket probe = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
      port = probe.getLocalPort();
    }
    Thread serving =
        new Thread(
            () -> {
              try {
                HiveMetaStore.startMetaStore(port, HadoopThriftAuthBridge.getBridge(), settings);
              } catch (Throwable error) {
                error.printStackTrace();
                System.exit(1);
              }
            });
    serving.setDaemon(true);
    serving.start();
    System.out.println(port);
    while (System.in.read() >= 0) {}
    Runtime.getRuntime().halt(0);
  }

  private static void makeTables(Path script) throws Exception {
    StringBuilder text = new StringBuilder();
    for (String line : Files.readAllLines(script)) {
      if (!line.strip().startsWith("--")) {
        text.append(line).append('\n');
      }
    }
    try (Connection connection = DriverManager.getConnection(DATABASE);
        Statement statement = connection.createStatement()) {
      for (String each : text.toString().split(";\\s*\\n")) {
        if (!each.isBlank()) {
          statement.execute(each);
        }
      }
    }
  }
}
