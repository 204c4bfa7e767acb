// A conversation on the terminal; Ctrl-C stops an answer, the end of input the program.
//
//     chat MODEL.cgraph [BUDGET_BYTES]

using System;
using System.Threading;
using CapsuleGraph;

internal static class Chat
{
    private static int Main(string[] args)
    {
        if (args.Length == 0)
        {
            Console.Error.WriteLine("usage: chat MODEL.cgraph [BUDGET_BYTES]");
            return 2;
        }
        CancellationTokenSource stop = null;
        Console.CancelKeyPress += (sender, pressed) =>
        {
            // Nothing to stop: the program ends.
            CancellationTokenSource answering = Volatile.Read(ref stop);
            if (answering == null) return;
            pressed.Cancel = true;
            answering.Cancel();
        };
        try
        {
            var options = new ModelOptions { MemoryBytes = args.Length > 1 ? long.Parse(args[1]) : 0 };
            using (Model model = Model.Open(args[0], options))
            using (Session session = model.CreateSession())
            {
                Console.Error.WriteLine(model.Name + ", mode " + model.Mode);
                for (string question = Ask(); question != null; question = Ask())
                {
                    Volatile.Write(ref stop, new CancellationTokenSource());
                    Answer(session, question, stop.Token);
                    Volatile.Write(ref stop, null);
                }
            }
            return 0;
        }
        catch (CapsuleGraphException error)
        {
            Console.Error.WriteLine(error.Message);
            return 1;
        }
    }

    private static string Ask()
    {
        Console.Write("> ");
        return Console.ReadLine();
    }

    private static void Answer(Session session, string question, CancellationToken stop)
    {
        try
        {
            foreach (string text in session.Chat(question, new GenerateOptions { MaxTokens = 200 }, stop)) Console.Write(text);
        }
        catch (OperationCanceledException)
        {
            // What was printed stays; the conversation goes on as if it had not been asked.
        }
        Console.WriteLine();
    }
}
