// Counter [TIMES]: draw a ticket, or several: no number is given out twice, on
// all nodes. The last number is the value block of the lock file "tickets".
//
//     $ javac -d build examples/Counter.java
//     $ java -cp build Counter
//     1
//     $ java -cp build Counter 2
//     2
//     3
//
// $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
import static java.nio.charset.StandardCharsets.US_ASCII;
import static java.nio.file.StandardOpenOption.CREATE;
import static java.nio.file.StandardOpenOption.READ;
import static java.nio.file.StandardOpenOption.WRITE;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.file.Path;

public class Counter {
    /**
     * Print the next number, while nobody else can: numbers appear in order. FileChannel has the locks of fcntl, which
     * belong to the whole JVM: threads need a monitor of their own, and closing any channel of the file drops them.
     */
    static synchronized void draw(Path tickets) throws IOException {
        try (FileChannel channel = FileChannel.open(tickets, CREATE, READ, WRITE);
                FileLock lock = channel.lock()) {
            ByteBuffer value = ByteBuffer.allocate(32);
            channel.read(value, 0);
            String last = US_ASCII.decode(value.flip()).toString().trim();
            long ticket = last.isEmpty() ? 1 : Long.parseLong(last) + 1;
            channel.write(US_ASCII.encode(ticket + "\n"), 0);
            System.out.println(ticket);
        }
    }

    public static void main(String[] args) {
        String lockspace = System.getenv().getOrDefault("LOCKSPACE", "/dlm/web");
        int times = args.length > 0 ? Integer.parseInt(args[0]) : 1;
        try {
            for (int i = 0; i < times; i++) {
                draw(Path.of(lockspace, "tickets"));
            }
        } catch (IOException e) {
            System.err.println("Counter: " + e);        // "Input/output error": the number was lost with a node
            System.exit(1);
        }
    }
}
